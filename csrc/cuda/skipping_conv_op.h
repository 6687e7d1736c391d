// What the operators of zero-skipping convolutions of CUDA tensors share.
#pragma once

#include "tensor.h"

namespace convfirst::cuda {

struct OutputSize {
  int64_t k, p, q;
};

// A dense convolution or a transposed one; the weight must be dense in channels_last order.
Tensor run_skipping(const Tensor& input, const Tensor& weight, const OptionalTensor& bias, const Window& window,
                    bool transposed, const OutputSize& size);

}  // namespace convfirst::cuda
