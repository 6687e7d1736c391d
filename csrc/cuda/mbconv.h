// MBConv blocks with squeeze-excite on CUDA, fp16 and bf16, sm_90: the launcher gives nullptr, or what went wrong.
#pragma once

#include "device/launch.cuh"
#include "window.h"

namespace convfirst::cuda {

// input + project(gate * activation(conv(activation(expand(input))))), or without the input; conv is 3x3, stride 1,
// padding 1, group width 8; gate = sigmoid(se_expand(se_activation(se_reduce(mean of the gated tensor's pixels)))).
// Images are dense NHWC; weights have torch's layouts and the images' storage, biases and squeeze-excite are fp32.
struct MBConvBlock {
  Storage storage;
  int n, h, w, c, hidden, squeezed;  // squeezed: channels between the two layers of squeeze-excite, 0 without it
  bool residual;
  Activation activation, se_activation;
  Buffer input, output;
  Buffer expand_weight, conv_weight, project_weight;  // (hidden, c), (hidden, 8, 3, 3), (c, hidden)
  Buffer expand_bias, conv_bias, project_bias;        // may be null
  Buffer se_reduce_weight, se_expand_weight;          // (squeezed, hidden), (hidden, squeezed)
  Buffer se_reduce_bias, se_expand_bias;              // may be null
};

// Why no kernel takes this block, or nullptr.
const char* mbconv_reason_against(const MBConvBlock& block);

const char* mbconv_forward(const MBConvBlock& block, Stream stream);

}  // namespace convfirst::cuda
