// The two forms every single convolution is registered in: torch's layouts, and packed for inference.
#pragma once

#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "../convolution_forms.h"
#include "convolution.h"
#include "packing.h"

namespace convfirst {

using Ints = std::vector<int64_t>;
using OptionalTensor = std::optional<Tensor>;

// What a kind of convolution accepts and how it runs.
struct ConvolutionKind {
  void (*check)(const ConvolutionShape& conv, int64_t lanes);  // channels in a block of the arithmetic
  void (*run_float)(const Convolution<float>& conv);
  void (*run_half)(const Convolution<Half>& conv);
  int64_t transformed = 0;  // rows and columns that packed weights have beyond the kernel's

  template <class E>
  auto run() const {
    if constexpr (std::is_same_v<E, Half>) {
      return run_half;
    } else {
      return run_float;
    }
  }
};

// One channel block at a time sums all its products in fp16.
inline void check_half_products(const ConvolutionShape& conv, int64_t lanes) {
  const int64_t products = conv.window.kernel_h * conv.window.kernel_w * conv.group_in();
  STD_TORCH_CHECK(lanes == kLanesOf<float> || products <= kMostHalfProducts, "weight must have at most ",
                  kMostHalfProducts, " products an output in fp16 arithmetic, but has ", products, ".");
}

extern const ConvolutionKind kDepthwise, kGrouped, kPointwise, kDense, kTrimmed, kWinograd2, kWinograd4;

// A convolution whose arguments fit each other; weights, bias, residual and out are the caller's to set.
template <class E>
Convolution<E> describe_convolution(const ConvolutionKind& kind, const ImageView& in, const WeightShape& weight,
                                    const Window& window, int64_t groups);

// The shape that a packed weight had, given its output channels.
WeightShape packed_shape(const Tensor& weight, int64_t out_channels);

Tensor run_plain(const ConvolutionKind& kind, const Tensor& input, const Tensor& weight, const OptionalTensor& bias,
                 const Ints& stride, const Ints& padding, const Ints& dilation, int64_t groups);

// What is left of run_plain once the weights are packed.
Tensor run_unpacked(Convolution<float> conv, const Tensor& input, const OptionalTensor& bias);

Tensor run_packed(const ConvolutionKind& kind, const Tensor& input, const Tensor& weight, const Tensor& bias,
                  const OptionalTensor& residual, const Ints& stride, const Ints& padding, const Ints& dilation,
                  int64_t groups, int64_t out_channels, const std::string& activation);

// Defines <name> and <name>_packed for one kind and registers them.
#define CONVFIRST_CPU_OPERATORS(m) STABLE_TORCH_LIBRARY_IMPL(convfirst, CPU, m)
#define CONVFIRST_REGISTER_CONVOLUTION(name, kind) CONVFIRST_DEFINE_CONVOLUTION(name, kind, CONVFIRST_CPU_OPERATORS)

}  // namespace convfirst
