// Depthwise convolution on CUDA: its launchers. They give nullptr, or what went wrong.
#pragma once

#include "convolution.h"

namespace convfirst::cuda {

// output = activation(conv(input) + bias) + residual.
const char* depthwise_forward(const Convolution& conv, Stream stream);

// input = gradient of the input, from that of the output.
const char* depthwise_data_grad(const Convolution& conv, Stream stream);

// Floats of workspace that the weight gradient needs.
int64_t depthwise_weight_grad_floats(const Convolution& conv);

// weight_grad (k, 1, R, S). Deterministic: sums of slices, then their sum in order.
const char* depthwise_weight_grad(const Convolution& conv, Buffer weight_grad, Buffer workspace, Stream stream);

}  // namespace convfirst::cuda
