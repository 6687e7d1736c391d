// The fused inverted residual: [expand ->] spatial convolution [-> squeeze-excite] -> project [+ residual], the hidden
// activations living in cache-sized tiles only (Lavin, "On the Efficiency of Convolutional Neural Networks", 5.4).
#pragma once

#include <vector>

#include "../shapes.h"
#include "../tiling/block_plan.h"
#include "multiply.h"
#include "tensor.h"

namespace convfirst {

struct SqueezeExcite {
  const float* reduce_weights = nullptr;  // nullptr: no squeeze-excite
  const float* reduce_bias = nullptr;
  const float* expand_weights = nullptr;
  const float* expand_bias = nullptr;
  int64_t squeezed = 0;  // bottleneck channels
  Activation activation = Activation::kRelu;
  Activation gate = Activation::kSigmoid;
};

struct FusedBlock {
  ImageView in;
  Window window;
  bool grouped8 = false;  // otherwise depthwise
  int64_t hidden = 0, out_c = 0, out_h = 0, out_w = 0;
  const float* expand_weights = nullptr;  // nullptr: the input itself is convolved
  const float* expand_bias = nullptr;
  const float* conv_weights = nullptr;
  const float* conv_bias = nullptr;
  const float* project_weights = nullptr;
  const float* project_bias = nullptr;
  SqueezeExcite se;
  Activation activation = Activation::kIdentity;  // after expand and after the convolution
  Activation output_activation = Activation::kIdentity;
  const void* residual = nullptr;
  void* out = nullptr;

  int64_t hidden_blocks() const { return ceil_div(hidden, kLanes); }
  int64_t out_blocks() const { return ceil_div(out_c, kLanes); }
  int64_t last_out_lanes() const { return out_c - (out_blocks() - 1) * kLanes; }
  BlockShape shape() const;
};

void run_fused_block(const FusedBlock& block);

// The gate of one image from the sums of its hidden activations over `pixels` pixels. All arrays in whole blocks;
// scratch holds hidden + squeezed floats, rounded up to blocks.
void excite(const KernelTable& kernels, const FusedBlock& block, const float* sums, int64_t pixels, float* scratch,
            float* gate);

}  // namespace convfirst
