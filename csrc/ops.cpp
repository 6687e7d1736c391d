// Every operator's schema, one a line: the table of contents.
//
// Weights of the *_packed operators come from pack_weight, biases are fp32 padded to whole blocks of 16 channels; these
// operators serve inference and know no gradients. The plain ones take torch's own layouts and are differentiable.
// padding is left, right, top, bottom.
#include <torch/csrc/stable/library.h>

#define PLAIN_ARGUMENTS \
  "Tensor input, Tensor weight, Tensor? bias, int[2] stride, int[4] padding, int[2] dilation, int groups"
#define PACKED_ARGUMENTS                                                                                         \
  "Tensor input, Tensor weight, Tensor bias, Tensor? residual, int[2] stride, int[4] padding, int[2] dilation, " \
  "int groups, int out_channels, str activation"
#define SE_ARGUMENTS                                                                                     \
  "Tensor? se_reduce_weight, Tensor? se_reduce_bias, Tensor? se_expand_weight, Tensor? se_expand_bias, " \
  "int se_channels, str se_activation, str se_gate"
#define NORM_ARGUMENTS                                                                                                \
  "Tensor? scale, Tensor? shift, Tensor? gate, str activation, Tensor weight, int[2] stride, int[4] padding, int[2] " \
  "dilation, int groups"
#define CHAIN_ARGUMENTS "Tensor input, Tensor weights, str program, bool flat, bool own_threads=True"

// The CUDA kernels' emulator (tests/cuda_emulator) registers them under another name.
#ifndef CONVFIRST_NAMESPACE
#define CONVFIRST_NAMESPACE convfirst
#endif

STABLE_TORCH_LIBRARY(CONVFIRST_NAMESPACE, m) {
  m.def("pack_weight(Tensor weight) -> Tensor");
  m.def("pack_transposed_weight(Tensor weight, int groups) -> Tensor");
  m.def("pack_winograd_weight(Tensor weight, int tile) -> Tensor");
  m.def("depthwise_conv2d(" PLAIN_ARGUMENTS ") -> Tensor");
  m.def("depthwise_conv2d_packed(" PACKED_ARGUMENTS ") -> Tensor");
  m.def("grouped_conv2d(" PLAIN_ARGUMENTS ") -> Tensor");
  m.def("grouped_conv2d_packed(" PACKED_ARGUMENTS ") -> Tensor");
  m.def("pointwise_conv2d(" PLAIN_ARGUMENTS ") -> Tensor");
  m.def("pointwise_conv2d_packed(" PACKED_ARGUMENTS ") -> Tensor");
  m.def("dense_conv2d(" PLAIN_ARGUMENTS ") -> Tensor");
  m.def("dense_conv2d_packed(" PACKED_ARGUMENTS ") -> Tensor");
  m.def("trimmed_conv2d(" PLAIN_ARGUMENTS ") -> Tensor");
  m.def("trimmed_conv2d_packed(" PACKED_ARGUMENTS ") -> Tensor");
  m.def("winograd_conv2d(" PLAIN_ARGUMENTS ") -> Tensor");
  m.def("winograd_conv2d_packed(" PACKED_ARGUMENTS ") -> Tensor");
  m.def(
      "split_conv_transpose2d(Tensor input, Tensor weight, Tensor? bias, int[2] stride, int[4] padding, "
      "int[2] output_padding, int[2] dilation, int groups) -> Tensor");
  m.def(
      "split_conv_transpose2d_packed(Tensor input, Tensor weight, Tensor bias, int[2] stride, int[4] padding, "
      "int[2] output_padding, int[2] dilation, int groups, int out_channels, str activation) -> Tensor");
  m.def(
      "depthwise_separable_packed(Tensor input, Tensor conv_weight, Tensor conv_bias, Tensor project_weight, "
      "Tensor project_bias, Tensor? residual, int[2] stride, int[4] padding, int[2] dilation, int out_channels, "
      "str activation, str output_activation) -> Tensor");
  m.def(
      "mbconv_packed(Tensor input, Tensor? expand_weight, Tensor? expand_bias, Tensor conv_weight, Tensor conv_bias, "
      "Tensor project_weight, Tensor project_bias, Tensor? residual, int[2] stride, int[4] padding, int[2] dilation, "
      "int groups, int hidden_channels, int out_channels, str activation, str output_activation, " SE_ARGUMENTS
      ") -> Tensor");
  m.def("empty_weights(int elements, bool half) -> Tensor");
  m.def(
      "strided_weight_grad(Tensor input, Tensor grad, int[2] kernel_size, int[2] stride, int[4] padding, int[2] "
      "dilation, "
      "int groups) -> Tensor");
  m.def("channel_moments(Tensor input) -> (Tensor, Tensor)");
  m.def("channel_sums(Tensor input) -> Tensor");
  m.def("normed_activation(Tensor input, Tensor scale, Tensor shift, str activation, Tensor? residual) -> Tensor");
  m.def("normed_activation_mean(Tensor input, Tensor scale, Tensor shift, str activation) -> Tensor");
  m.def(
      "normed_activation_backward(Tensor grad, Tensor input, Tensor scale, Tensor shift, Tensor mean, str activation, "
      "Tensor? gate, Tensor? offset, bool keeps) -> (Tensor, Tensor)");
  m.def(
      "normed_activation_input_grad(Tensor grad, Tensor input, Tensor scale, Tensor shift, str activation, Tensor "
      "factors) -> Tensor");
  m.def("normed_conv2d(Tensor input, " NORM_ARGUMENTS ") -> (Tensor, Tensor, Tensor)");
  m.def(
      "normed_conv2d_backward(Tensor grad, Tensor? output, Tensor? factors, Tensor input, Tensor? scale, Tensor? "
      "shift, "
      "Tensor? mean, Tensor? gate, str activation, Tensor weight, int[2] stride, int[4] padding, int[2] dilation, int "
      "groups, bool needs_input) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def("release_kept_memory() -> int");
  m.def("multiplies_half() -> bool");
  m.def("chain_packed(" CHAIN_ARGUMENTS ") -> Tensor");
  m.def("profile_chain_packed(" CHAIN_ARGUMENTS ") -> (Tensor, Tensor)");
}
