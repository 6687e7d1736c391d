// Dense convolution of few input channels on CUDA, a network's stem: its launcher gives nullptr, or what went wrong.
#pragma once

#include "convolution.h"

namespace convfirst::cuda {

// Why no kernel takes this convolution, or nullptr.
const char* dense_reason_against(const Convolution& conv);

// output = activation(conv(input) + bias) + residual.
const char* dense_forward(const Convolution& conv, Stream stream);

}  // namespace convfirst::cuda
