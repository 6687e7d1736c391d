// ConvFirst blocks on CUDA, fp16 and bf16: the launcher gives nullptr, or what went wrong.
#pragma once

#include "device/launch.cuh"
#include "window.h"

namespace convfirst::cuda {

// input + project(activation(expand(relu(conv(input))))), or without the input or the first ReLU; conv is 3x3, stride
// 1, padding 1, group width 8. Images are dense NHWC; weights have torch's layouts and the images' storage, biases are
// fp32.
struct ConvFirstBlock {
  Storage storage;
  int n, h, w, c, hidden;
  bool residual, conv_relu;
  Activation activation;
  Buffer input, output;
  Buffer conv_weight, expand_weight, project_weight;  // (c, 8, 3, 3), (hidden, c), (c, hidden)
  Buffer conv_bias, expand_bias, project_bias;        // may be null
};

// Why no kernel takes this block, or nullptr.
const char* convfirst_reason_against(const ConvFirstBlock& block);

const char* convfirst_forward(const ConvFirstBlock& block, Stream stream);

}  // namespace convfirst::cuda
