// Transposed convolution as stride_h x stride_w small convolutions whose results are written interleaved into the
// output (KS-deconv of C-K-S, arXiv 2306.15951). Also the input gradient of a strided convolution.
#include "convolution_op.h"
#include "kept_memory.h"
#include "parallel.h"
#include "skipping_conv.h"
#include "spatial_run.h"

namespace convfirst {
namespace {

// (C, O / groups, R, S), torch's layout.
struct TransposedShape {
  int64_t in_c, group_out, kernel_h, kernel_w;
};

SkippingConv describe(const ImageView& in, const TransposedShape& weight, const Ints& stride, const Ints& padding,
                      const Ints& output_padding, const Ints& dilation, int64_t groups) {
  const Window w = window_of(weight.kernel_h, weight.kernel_w, stride, padding, dilation);
  STD_TORCH_CHECK(output_padding.size() == 2 && output_padding[0] >= 0 && output_padding[1] >= 0,
                  "output_padding must be two numbers >= 0.");
  STD_TORCH_CHECK(in.c > 0 && weight.group_out > 0 && weight.kernel_h > 0 && weight.kernel_w > 0,
                  "input and weight must have at least one channel and one kernel element.");
  STD_TORCH_CHECK(weight.in_c == in.c, "weight must have ", in.c, " input channels, but has ", weight.in_c, ".");
  STD_TORCH_CHECK(groups > 0 && in.c % groups == 0, "groups must divide the ", in.c, " input channels, but is ", groups,
                  ".");
  STD_TORCH_CHECK(
      groups == 1 || groups == in.c || weight.group_out % kLanes == 0,
      "groups must be 1, the input channels, or leave a multiple of 16 output channels a group, but leaves ",
      weight.group_out, ".");
  STD_TORCH_CHECK(groups != in.c || groups == 1 || w.kernel_h <= kMaxKernelRows, "weight must have at most ",
                  kMaxKernelRows, " rows.");
  SkippingConv conv{};
  conv.in = in, conv.groups = groups, conv.out_c = weight.group_out * groups;
  conv.kernel_h = w.kernel_h, conv.kernel_w = w.kernel_w;
  conv.out_h = (in.h - 1) * w.stride_h - w.top - w.bottom + w.span_h() + output_padding[0];
  conv.out_w = (in.w - 1) * w.stride_w - w.left - w.right + w.span_w() + output_padding[1];
  STD_TORCH_CHECK(conv.out_h >= 0 && conv.out_w >= 0, "padding must leave an output of no negative size, but leaves ",
                  conv.out_h, "x", conv.out_w, " pixels.");
  conv.rows = transposed_runs({in.h, conv.out_h, w.kernel_h, w.stride_h, w.dilation_h, w.top});
  conv.columns = transposed_runs({in.w, conv.out_w, w.kernel_w, w.stride_w, w.dilation_w, w.left});
  return conv;
}

Tensor allocate(const Tensor& input, const SkippingConv& conv) {
  return empty_result(input, conv.in.n, conv.out_c, conv.out_h, conv.out_w);
}

Tensor split_plain(const Tensor input, const Tensor weight, const OptionalTensor bias, const Ints stride,
                   const Ints padding, const Ints output_padding, const Ints dilation, int64_t groups) {
  const WeightShape w = weight_shape(weight);
  const ImageView in = view_nhwc(input, "input");
  SkippingConv conv =
      describe(in, {w.out_c, w.group_in, w.kernel_h, w.kernel_w}, stride, padding, output_padding, dilation, groups);
  const WeightShape packed_as{conv.out_c, conv.group_in(), w.kernel_h, w.kernel_w};
  float* packed = weight_scratch(packed_as.packed_floats());
  pack_transposed_weight_into(weight, groups, packed);
  const std::vector<float> whole_bias = padded_bias(bias, conv.out_c);
  Tensor out = allocate(input, conv);
  conv.weights = packed, conv.bias = whole_bias.data(), conv.out = out.mutable_data_ptr();
  if (out.numel() > 0) run_skipping(conv);
  return out;
}

Tensor split_packed(const Tensor input, const Tensor weight, const Tensor bias, const Ints stride, const Ints padding,
                    const Ints output_padding, const Ints dilation, int64_t groups, int64_t out_channels,
                    const std::string activation) {
  const WeightShape shape = packed_shape(weight, out_channels);
  const ImageView in = view_nhwc(input, "input");
  STD_TORCH_CHECK(groups > 0 && out_channels % groups == 0, "groups must divide the ", out_channels,
                  " output channels, but is ", groups, ".");
  SkippingConv conv = describe(in, {shape.group_in * groups, out_channels / groups, shape.kernel_h, shape.kernel_w},
                               stride, padding, output_padding, dilation, groups);
  conv.weights = view_floats(weight, "weight", shape.packed_floats());
  conv.bias = view_floats(bias, "bias", shape.blocks() * kLanes);
  conv.activation = activation_of(activation, "activation");
  Tensor out = allocate(input, conv);
  conv.out = out.mutable_data_ptr();
  if (out.numel() > 0) run_skipping(conv);
  return out;
}

STABLE_TORCH_LIBRARY_IMPL(convfirst, CPU, m) {
  m.impl("split_conv_transpose2d", TORCH_BOX(&split_plain));
  m.impl("split_conv_transpose2d_packed", TORCH_BOX(&split_packed));
}

}  // namespace
}  // namespace convfirst
