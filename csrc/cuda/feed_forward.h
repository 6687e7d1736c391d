// Two products with an activation between them, as kernels of fused blocks take them.
#pragma once

#include "window.h"

namespace convfirst::cuda {

// project(activation(expand(x))); weights have torch's layouts and the images' storage, biases are fp32.
struct FeedForwardLayers {
  int inputs, hidden, outputs;  // channels
  Activation activation;
  Buffer expand_weight, project_weight;  // (hidden, inputs), (outputs, hidden)
  Buffer expand_bias, project_bias;      // may be null
};

}  // namespace convfirst::cuda
