// Layer normalisation over the channels of every pixel.
#pragma once

#include "tensor.h"

namespace convfirst {

template <class E>
struct LayerNorm {
  ImageView in;
  const E* weight;  // padded to whole blocks
  const E* bias;
  float epsilon;
  void* out;
};

template <class E>
void run_layer_norm(const LayerNorm<E>& norm);

}  // namespace convfirst
