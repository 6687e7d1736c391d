// A chain of packed blocks, read from the numbers and weights that describe it and checked against an input's shape.
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "blur_pool.h"
#include "convnext_block.h"
#include "convolution_op.h"
#include "fused_block.h"
#include "global_pool.h"
#include "layer_norm.h"

namespace convfirst {

// One step: reads value `in`, adds value `residual` if it is not negative (or takes it beside `in`), and gives the next
// value.
template <class E>
struct ChainStep {
  using Element = E;
  std::variant<Convolution<E>, FusedBlock<E>, GlobalPool, LayerNorm<E>, ConvNextBlock<E>, BlurPool<E>> work;
  int64_t in, residual;
  ImageView out;  // data not set

  int64_t image_elements() const { return out.h * out.w * out.c; }
};

// Value 0 is the input, value i + 1 the result of step i; the last one is the chain's result.
// The program is whole numbers with spaces between, the weights are those of all steps in order, of the type of the
// arithmetic.
template <class E>
std::vector<ChainStep<E>> read_chain(const ImageView& input, const Tensor& weights, const std::string& program);

}  // namespace convfirst
