// The ConvNeXt block: depthwise convolution, layer norm, expand, activation, project [+ residual] (Liu et al., "A
// ConvNet for the 2020s"). Layer norm's scale and shift are folded into the expansion, layer scale into the projection.
// Without the layer norm, and with groups of eight channels or depthwise, it is the ConvFirst block (Lavin,
// arXiv 2404.03617, section 5.3.1), whose batch norms are folded.
#pragma once

#include "convolution.h"

namespace convfirst {

// Computed in E; fp16 arithmetic takes fp16 storage only.
template <class E>
struct ConvNextBlock {
  Convolution<E> conv;  // one block of channels at a time, no activation; its residual and out are not used
  int64_t hidden, out_c;
  const E* expand_weights;
  const E* expand_bias;
  const E* project_weights;
  const E* project_bias;
  Activation activation;
  bool normalizes;
  float epsilon;         // of layer norm
  const void* residual;  // nullptr: none
  void* out;
};

template <class E>
void run_convnext_block(const ConvNextBlock<E>& block);

}  // namespace convfirst
