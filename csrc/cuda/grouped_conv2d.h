// Grouped convolution of group width 8 and 16 on CUDA, fp16 and bf16: its launchers. They give nullptr, or what went
// wrong.
#pragma once

#include "convolution.h"

namespace convfirst::cuda {

// Why no kernel takes this convolution, or nullptr.
const char* grouped_reason_against(const Convolution& conv);

// output = activation(conv(input) + bias) + residual.
const char* grouped_forward(const Convolution& conv, Stream stream);

// input = gradient of the input, from that of the output.
const char* grouped_data_grad(const Convolution& conv, Stream stream);

// Floats of workspace that the weight gradient needs.
int64_t grouped_weight_grad_floats(const Convolution& conv);

// weight_grad (k, width, R, S). Deterministic: sums of slices, then their sum in order.
const char* grouped_weight_grad(const Convolution& conv, Buffer weight_grad, Buffer workspace, Stream stream);

}  // namespace convfirst::cuda
