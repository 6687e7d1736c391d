// ConvFirst blocks on CUDA, fp16 and bf16: the launcher gives nullptr, or what went wrong.
#pragma once

#include "device/launch.cuh"
#include "feed_forward.h"

namespace convfirst::cuda {

// Stride 1: input + ffn(relu(conv(input))), or without the input or the ReLU. Stride 2: ffn(cat(blur(input),
// blur(relu(conv(input))))), or without the ReLU, where blur takes each second pixel behind [1, 2, 1] / 4 in both
// directions with reflected edges. conv is 3x3, stride 1, padding 1, group width 8. Images are dense NHWC; weights have
// torch's layouts and the images' storage, biases are fp32.
struct ConvFirstBlock {
  Storage storage;
  int n, h, w, c, stride;
  bool residual, conv_relu;
  Buffer input, output;
  Buffer conv_weight, conv_bias;  // (c, 8, 3, 3); may be null
  FeedForwardLayers ffn;

  __host__ __device__ int out_h() const { return (h - 1) / stride + 1; }
  __host__ __device__ int out_w() const { return (w - 1) / stride + 1; }
};

// Why no kernel takes this block, or nullptr.
const char* convfirst_reason_against(const ConvFirstBlock& block);

const char* convfirst_forward(const ConvFirstBlock& block, Stream stream);

}  // namespace convfirst::cuda
