// Argument checks that keep kernels inside their tensors: one clear sentence an error. The Python layer checks the same
// things with Python's exception types before it calls; these hold for every other caller.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <string>
#include <vector>

#include "cpu/microkernels/api.h"
#include "shapes.h"

namespace convfirst {

using torch::stable::Tensor;

inline Storage storage_of(const Tensor& t, const char* name) {
  switch (t.scalar_type()) {
    case torch::headeronly::ScalarType::Float: return Storage::kFloat32;
    case torch::headeronly::ScalarType::BFloat16: return Storage::kBFloat16;
    case torch::headeronly::ScalarType::Half: return Storage::kFloat16;
    default: break;
  }
  STD_TORCH_CHECK(false, name, " must have dtype float32, bfloat16 or float16.");
}

// Strides of dimensions of size one or of empty tensors carry no meaning and are not looked at.
inline bool is_dense_nhwc(const Tensor& t) {
  if (t.numel() == 0) return true;
  const int64_t c = t.size(1), h = t.size(2), w = t.size(3);
  return (c == 1 || t.stride(1) == 1) && (w == 1 || t.stride(3) == c) && (h == 1 || t.stride(2) == w * c) &&
         (t.size(0) == 1 || t.stride(0) == h * w * c);
}

inline void check_image(const Tensor& t, const char* name) {
  STD_TORCH_CHECK(t.is_cpu(), name, " must be a CPU tensor.");
  STD_TORCH_CHECK(t.dim() == 4, name, " must have 4 dimensions (N, C, H, W), but has ", t.dim(), ".");
  STD_TORCH_CHECK(is_dense_nhwc(t), name, " must be dense in channels_last order.");
}

inline void check_packed(const Tensor& t, const char* name, int64_t count) {
  STD_TORCH_CHECK(t.is_cpu() && t.scalar_type() == torch::headeronly::ScalarType::Float && t.is_contiguous(), name,
                  " must be a contiguous float32 CPU tensor.");
  STD_TORCH_CHECK(t.numel() == count, name, " must have ", count, " elements, but has ", t.numel(), ".");
}

inline Activation activation_of(const std::string& name, const char* argument) {
  static const char* const kNames[] = {"identity", "relu",      "relu6",   "silu",       "hardswish",
                                       "gelu",     "gelu_tanh", "sigmoid", "hardsigmoid"};
  for (int i = 0; i < kActivationCount; ++i) {
    if (name == kNames[i]) return static_cast<Activation>(i);
  }
  STD_TORCH_CHECK(false, argument,
                  " must be identity, relu, relu6, silu, hardswish, gelu, gelu_tanh, sigmoid or hardsigmoid, but is '",
                  name, "'.");
}

// The window of a convolution from the three list arguments every operator takes.
inline Window window_of(int64_t kernel_h, int64_t kernel_w, const std::vector<int64_t>& stride,
                        const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation) {
  STD_TORCH_CHECK(stride.size() == 2 && stride[0] > 0 && stride[1] > 0, "stride must be two positive numbers.");
  STD_TORCH_CHECK(dilation.size() == 2 && dilation[0] > 0 && dilation[1] > 0, "dilation must be two positive numbers.");
  STD_TORCH_CHECK(padding.size() == 4 && padding[0] >= 0 && padding[1] >= 0 && padding[2] >= 0 && padding[3] >= 0,
                  "padding must be four numbers >= 0 (left, right, top, bottom).");
  return {kernel_h,    kernel_w,   stride[0],  stride[1],  dilation[0],
          dilation[1], padding[0], padding[1], padding[2], padding[3]};
}

inline void check_output(const Window& window, int64_t h, int64_t w) {
  STD_TORCH_CHECK(window.kernel_h > 0 && window.kernel_w > 0, "weight must have a kernel of at least 1x1.");
  STD_TORCH_CHECK(window.out_h(h) > 0 && window.out_w(w) > 0, "input of ", h, "x", w,
                  " with its padding must be at least as large as the dilated kernel.");
}

}  // namespace convfirst
