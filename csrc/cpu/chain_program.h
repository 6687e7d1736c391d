// A chain of packed blocks, read from the integers and tensors that describe it and checked against an input's shape.
#pragma once

#include <variant>
#include <vector>

#include "convnext_block.h"
#include "convolution_op.h"
#include "fused_block.h"
#include "global_pool.h"
#include "layer_norm.h"

namespace convfirst {

// One step: reads value `in`, adds value `residual` if it is not negative, and gives the next value.
struct ChainStep {
  std::variant<Convolution, FusedBlock, GlobalPool, LayerNorm, ConvNextBlock> work;
  int64_t in, residual;
  ImageView out;  // data not set

  int64_t image_elements() const { return out.h * out.w * out.c; }
};

// Value 0 is the input, value i + 1 the result of step i; the last one is the chain's result.
std::vector<ChainStep> read_chain(const ImageView& input, const std::vector<Tensor>& tensors,
                                  const std::vector<int64_t>& program);

}  // namespace convfirst
