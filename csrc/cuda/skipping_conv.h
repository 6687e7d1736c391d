// Dense convolutions and transposed convolutions without the products of padded or inserted zeros (C-K-S, arXiv
// 2306.15951) on CUDA, fp16 and bf16: the launcher gives nullptr, or what went wrong.
#pragma once

#include "device/launch.cuh"
#include "window.h"

namespace convfirst::cuda {

// output (n, p, q, k) from input (n, h, w, c), both NHWC. The weight's memory is channels_last: (k, R, S, c) for a
// convolution, (c, R, S, k) for a transposed one, whose window is that of the convolution it is the data gradient of.
struct SkippingConv {
  Storage storage;
  Window window;
  bool transposed;
  int n, h, w, c, p, q, k;
  Buffer input, weight, bias, output;  // bias in the images' storage; may be null
};

// Why no kernel takes this convolution, or nullptr.
const char* skipping_reason_against(const SkippingConv& conv);

const char* skipping_forward(const SkippingConv& conv, Stream stream);

}  // namespace convfirst::cuda
