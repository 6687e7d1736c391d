// The two forms of every single convolution, on every device: torch's layouts, and packed for inference.
#pragma once

// Defines <name>_plain and <name>_packed by the run_plain and run_packed of the namespace it stands in, and registers
// them with `operators(m)`, which opens a library's block.
#define CONVFIRST_DEFINE_CONVOLUTION(name, kind, operators)                                                       \
  Tensor name##_plain(const Tensor input, const Tensor weight, const OptionalTensor bias, const Ints stride,      \
                      const Ints padding, const Ints dilation, int64_t groups) {                                  \
    return run_plain(kind, input, weight, bias, stride, padding, dilation, groups);                               \
  }                                                                                                               \
  Tensor name##_packed(const Tensor input, const Tensor weight, const Tensor bias, const OptionalTensor residual, \
                       const Ints stride, const Ints padding, const Ints dilation, int64_t groups,                \
                       int64_t out_channels, const std::string activation) {                                      \
    return run_packed(kind, input, weight, bias, residual, stride, padding, dilation, groups, out_channels,       \
                      activation);                                                                                \
  }                                                                                                               \
  operators(m) {                                                                                                  \
    m.impl(#name, TORCH_BOX(&name##_plain));                                                                      \
    m.impl(#name "_packed", TORCH_BOX(&name##_packed));                                                           \
  }
