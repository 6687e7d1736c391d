// The two forms every single convolution of CUDA tensors is registered in: torch's layouts, and packed for inference.
#pragma once

#include "../convolution_forms.h"
#include "convolution.h"
#include "tensor.h"

namespace convfirst::cuda {

struct WeightSize {
  int64_t out_channels, group_in, kernel_h, kernel_w;
  bool packed;
};

// What a kind of convolution accepts and how it runs.
struct ConvolutionKind {
  const char* (*reason_against)(const Convolution& conv);
  const char* (*forward)(const Convolution& conv, Stream stream);
};

// A convolution of `in` whose arguments fit each other; tensors but the input are the caller's to set.
Convolution describe(const Image& in, const WeightSize& weight, const Ints& stride, const Ints& padding,
                     const Ints& dilation, int64_t groups);

Tensor run_plain(const ConvolutionKind& kind, const Tensor& input, const Tensor& weight, const OptionalTensor& bias,
                 const Ints& stride, const Ints& padding, const Ints& dilation, int64_t groups);

Tensor run_packed(const ConvolutionKind& kind, const Tensor& input, const Tensor& weight, const Tensor& bias,
                  const OptionalTensor& residual, const Ints& stride, const Ints& padding, const Ints& dilation,
                  int64_t groups, int64_t out_channels, const std::string& activation);

// Defines <name> and <name>_packed for one kind and registers them.
#define CONVFIRST_REGISTER_CUDA_CONVOLUTION(name, kind) \
  CONVFIRST_DEFINE_CONVOLUTION(name, kind, CONVFIRST_CUDA_OPERATORS)

}  // namespace convfirst::cuda
