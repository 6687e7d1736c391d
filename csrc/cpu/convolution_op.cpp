// Checks the arguments of a single convolution, allocates its output and runs it.
#include "convolution_op.h"

#include "kept_memory.h"
#include "parallel.h"
#include "spatial_run.h"

namespace convfirst {
namespace {

Convolution<float> describe(const ConvolutionKind& kind, const Tensor& input, const WeightShape& weight,
                            const Ints& stride, const Ints& padding, const Ints& dilation, int64_t groups) {
  const ImageView in = view_nhwc(input, "input");
  const int64_t kernel_h = weight.kernel_h - kind.transformed, kernel_w = weight.kernel_w - kind.transformed;
  const Window window = window_of(kernel_h, kernel_w, stride, padding, dilation);
  return describe_convolution<float>(kind, in, weight, window, groups);
}

Tensor allocate(const Tensor& input, const ConvolutionShape& conv) {
  return empty_result(input, conv.in.n, conv.out_c, conv.out_h, conv.out_w);
}

}  // namespace

WeightShape packed_shape(const Tensor& weight, int64_t out_channels) {
  STD_TORCH_CHECK(weight.dim() == 5 && weight.size(0) == ceil_div(out_channels, kLanes) && weight.size(4) == kLanes,
                  "weight must be packed by pack_weight for ", out_channels, " output channels.");
  return {out_channels, weight.size(3), weight.size(1), weight.size(2)};
}

template <class E>
Convolution<E> describe_convolution(const ConvolutionKind& kind, const ImageView& in, const WeightShape& weight,
                                    const Window& window, int64_t groups) {
  Convolution<E> conv{};
  conv.in = in;
  conv.window = window;
  conv.groups = groups;
  conv.out_c = weight.out_c;
  check_output(conv.window, conv.in.h, conv.in.w);
  STD_TORCH_CHECK(conv.in.c > 0 && conv.out_c > 0, "input and weight must have at least one channel.");
  STD_TORCH_CHECK(groups > 0 && conv.in.c % groups == 0 && conv.out_c % groups == 0, "groups must divide the ",
                  conv.in.c, " input and ", conv.out_c, " output channels, but is ", groups, ".");
  STD_TORCH_CHECK(weight.group_in == conv.in.c / groups, "weight must have ", conv.in.c / groups,
                  " input channels a group, but has ", weight.group_in, ".");
  STD_TORCH_CHECK(conv.window.kernel_h <= kMaxKernelRows, "weight must have at most ", kMaxKernelRows, " rows.");
  conv.out_h = conv.window.out_h(conv.in.h);
  conv.out_w = conv.window.out_w(conv.in.w);
  conv.run = kind.run<E>();
  kind.check(conv, kLanesOf<E>);
  return conv;
}

template Convolution<float> describe_convolution(const ConvolutionKind&, const ImageView&, const WeightShape&,
                                                 const Window&, int64_t);
template Convolution<Half> describe_convolution(const ConvolutionKind&, const ImageView&, const WeightShape&,
                                                const Window&, int64_t);

Tensor run_plain(const ConvolutionKind& kind, const Tensor& input, const Tensor& weight, const OptionalTensor& bias,
                 const Ints& stride, const Ints& padding, const Ints& dilation, int64_t groups) {
  Convolution<float> conv = describe(kind, input, weight_shape(weight), stride, padding, dilation, groups);
  float* packed = weight_scratch(weight_shape(weight).packed_floats());
  pack_weight_into(weight, packed);
  conv.weights = packed;
  return run_unpacked(conv, input, bias);
}

Tensor run_unpacked(Convolution<float> conv, const Tensor& input, const OptionalTensor& bias) {
  const std::vector<float> whole_bias = padded_bias(bias, conv.out_c);
  // Training frees and takes the same memory again, step by step.
  Tensor out = conv.in.storage == Storage::kFloat32 ? empty_kept(conv.in.n, conv.out_c, conv.out_h, conv.out_w)
                                                    : allocate(input, conv);
  conv.bias = whole_bias.data(), conv.out = out.mutable_data_ptr();
  if (out.numel() > 0) conv.run(conv);
  return out;
}

Tensor run_packed(const ConvolutionKind& kind, const Tensor& input, const Tensor& weight, const Tensor& bias,
                  const OptionalTensor& residual, const Ints& stride, const Ints& padding, const Ints& dilation,
                  int64_t groups, int64_t out_channels, const std::string& activation) {
  const WeightShape shape = packed_shape(weight, out_channels);
  Convolution<float> conv = describe(kind, input, shape, stride, padding, dilation, groups);
  conv.weights = view_floats(weight, "weight", shape.packed_floats());
  conv.bias = view_floats(bias, "bias", shape.blocks() * kLanes);
  conv.activation = activation_of(activation, "activation");
  Tensor out = allocate(input, conv);
  if (residual) conv.residual = view_like(*residual, "residual", out);
  conv.out = out.mutable_data_ptr();
  if (out.numel() > 0) conv.run(conv);
  return out;
}

}  // namespace convfirst
