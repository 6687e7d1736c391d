// Layer normalisation over the channels of every pixel.
#pragma once

#include "tensor.h"

namespace convfirst {

struct LayerNorm {
  ImageView in;
  const float* weight;  // padded to whole blocks
  const float* bias;
  float epsilon;
  void* out;
};

void run_layer_norm(const LayerNorm& norm);

}  // namespace convfirst
