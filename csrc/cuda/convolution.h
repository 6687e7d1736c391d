// A convolution as its CUDA launchers take it. Images are dense NHWC; letters as in csrc/README.md.
#pragma once

#include "device/launch.cuh"
#include "window.h"

namespace convfirst::cuda {

struct Convolution {
  Storage storage;
  Window window;
  int n, h, w, c;  // the convolution's input
  int p, q, k;     // its output
  Weights weights;
  Buffer input, output;   // or their gradients
  Buffer bias, residual;  // may be null
  Activation activation = Activation::kIdentity;

  int64_t inputs() const { return int64_t{n} * h * w * c; }
  int64_t outputs() const { return int64_t{n} * p * q * k; }
};

}  // namespace convfirst::cuda
