// The fused inverted residual: [expand ->] spatial convolution [-> squeeze-excite] -> project [+ residual], the hidden
// activations living in cache-sized tiles only (Lavin, "On the Efficiency of Convolutional Neural Networks", 5.4).
#pragma once

#include <vector>

#include "../shapes.h"
#include "../tiling/block_plan.h"
#include "multiply.h"
#include "tensor.h"

namespace convfirst {

template <class E>
struct SqueezeExcite {
  const E* reduce_weights = nullptr;  // nullptr: no squeeze-excite
  const E* reduce_bias = nullptr;
  const E* expand_weights = nullptr;
  const E* expand_bias = nullptr;
  int64_t squeezed = 0;  // bottleneck channels
  Activation activation = Activation::kRelu;
  Activation gate = Activation::kSigmoid;
};

// Computed in E; fp16 arithmetic takes fp16 storage only.
template <class E>
struct FusedBlock {
  static constexpr int64_t kLanes = kLanesOf<E>;

  ImageView in;
  Window window;
  bool grouped8 = false;  // otherwise depthwise
  int64_t hidden = 0, out_c = 0, out_h = 0, out_w = 0;
  const E* expand_weights = nullptr;  // nullptr: the input itself is convolved
  const E* expand_bias = nullptr;
  const E* conv_weights = nullptr;
  const E* conv_bias = nullptr;
  const E* project_weights = nullptr;
  const E* project_bias = nullptr;
  SqueezeExcite<E> se;
  Activation activation = Activation::kIdentity;  // after expand and after the convolution
  Activation output_activation = Activation::kIdentity;
  const void* residual = nullptr;
  void* out = nullptr;
  bool out_is_scratch = false;  // read again while a cache holds it

  int64_t hidden_blocks() const { return ceil_div(hidden, kLanes); }
  int64_t out_blocks() const { return ceil_div(out_c, kLanes); }
  int64_t last_out_lanes() const { return out_c - (out_blocks() - 1) * kLanes; }
  bool stores_elements() const { return in.storage == StorageOf<E>::value; }
  bool streams() const {
    if (out_is_scratch || residual || !stores_elements() || !clamp_of(output_activation).exact) return false;
    return streams_to(out, in.n * out_h * out_w, out_c, sizeof(E));
  }
  BlockShape shape() const;
};

template <class E>
void run_fused_block(const FusedBlock<E>& block);

// The gate of one image from the sums (which become means) of its hidden activations over `pixels` pixels. All arrays
// in whole blocks; scratch holds hidden + squeezed elements, rounded up to blocks.
template <class E>
void excite(const Kernels<E>& kernels, const FusedBlock<E>& block, float* sums, int64_t pixels, E* scratch, E* gate);

}  // namespace convfirst
