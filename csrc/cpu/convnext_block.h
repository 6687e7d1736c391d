// The ConvNeXt block: depthwise convolution, layer norm, expand, activation, project [+ residual] (Liu et al., "A
// ConvNet for the 2020s"). Layer norm's scale and shift are folded into the expansion, layer scale into the projection.
#pragma once

#include "convolution.h"

namespace convfirst {

struct ConvNextBlock {
  Convolution conv;  // depthwise, no activation; its residual and out are not used
  int64_t hidden, out_c;
  const float* expand_weights;
  const float* expand_bias;
  const float* project_weights;
  const float* project_bias;
  Activation activation;
  float epsilon;
  const void* residual;  // nullptr: none
  void* out;
};

void run_convnext_block(const ConvNextBlock& block);

}  // namespace convfirst
