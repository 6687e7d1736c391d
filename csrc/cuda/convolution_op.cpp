// Checks the arguments of a single convolution of CUDA tensors, allocates its output and launches it.
#include "convolution_op.h"

namespace convfirst::cuda {
namespace {

constexpr int64_t kLanes = 16;  // of a packed weight's block

void check_kind(const ConvolutionKind& kind, const Convolution& conv) {
  const char* reason = kind.reason_against(conv);
  STD_TORCH_CHECK(reason == nullptr, "on CUDA ", reason, ".");
}

Tensor run(const ConvolutionKind& kind, Convolution& conv, const Tensor& input, const OptionalTensor& residual) {
  const Device device(input);
  Tensor out = empty_nhwc(input, conv.n, conv.k, conv.p, conv.q);
  const Image image = view_image(out, "output");
  conv.output = image.data;
  conv.residual = view_like(residual, "residual", image);
  check_kind(kind, conv);
  if (out.numel() > 0) check_launch(kind.forward(conv, device.stream()));
  return out;
}

}  // namespace

Convolution describe(const Image& in, const WeightSize& weight, const Ints& stride, const Ints& padding,
                     const Ints& dilation, int64_t groups) {
  const convfirst::Window window = convfirst::window_of(weight.kernel_h, weight.kernel_w, stride, padding, dilation);
  check_output(window, in.h, in.w);
  STD_TORCH_CHECK(in.c > 0 && weight.out_channels > 0, "input and weight must have at least one channel.");
  STD_TORCH_CHECK(groups > 0 && in.c % groups == 0 && weight.out_channels % groups == 0, "groups must divide the ",
                  in.c, " input and ", weight.out_channels, " output channels, but is ", groups, ".");
  STD_TORCH_CHECK(weight.group_in == in.c / groups, "weight must have ", in.c / groups,
                  " input channels a group, but has ", weight.group_in, ".");
  Convolution conv{};
  conv.storage = in.storage;
  conv.window = window_of(weight.kernel_h, weight.kernel_w, stride, padding, dilation);
  conv.n = in.n, conv.h = in.h, conv.w = in.w, conv.c = in.c;
  conv.p = to_int(window.out_h(in.h), "output"), conv.q = to_int(window.out_w(in.w), "output");
  conv.k = to_int(weight.out_channels, "weight");
  conv.weights = {{}, weight.packed, static_cast<int>(weight.group_in), conv.window.taps()};
  conv.input = in.data;
  return conv;
}

Tensor run_plain(const ConvolutionKind& kind, const Tensor& input, const Tensor& weight, const OptionalTensor& bias,
                 const Ints& stride, const Ints& padding, const Ints& dilation, int64_t groups) {
  STD_TORCH_CHECK(weight.dim() == 4, "weight must have 4 dimensions (O, C / groups, R, S), but has ", weight.dim(),
                  ".");
  const Image in = view_image(input, "input");
  const WeightSize size = {weight.size(0), weight.size(1), weight.size(2), weight.size(3), false};
  Convolution conv = describe(in, size, stride, padding, dilation, groups);
  conv.weights.data = view_parameter(weight, "weight", weight.numel(), in.storage, false);
  if (bias) conv.bias = view_parameter(*bias, "bias", conv.k, in.storage, false);
  return run(kind, conv, input, std::nullopt);
}

Tensor run_packed(const ConvolutionKind& kind, const Tensor& input, const Tensor& weight, const Tensor& bias,
                  const OptionalTensor& residual, const Ints& stride, const Ints& padding, const Ints& dilation,
                  int64_t groups, int64_t out_channels, const std::string& activation) {
  const int64_t blocks = ceil_div(out_channels, kLanes);
  STD_TORCH_CHECK(weight.dim() == 5 && weight.size(0) == blocks && weight.size(4) == kLanes,
                  "weight must be packed by pack_weight for ", out_channels, " output channels.");
  const Image in = view_image(input, "input");
  const WeightSize size = {out_channels, weight.size(3), weight.size(1), weight.size(2), true};
  Convolution conv = describe(in, size, stride, padding, dilation, groups);
  conv.weights.data = view_parameter(weight, "weight", weight.numel(), in.storage, true);
  conv.bias = view_parameter(bias, "bias", blocks * kLanes, in.storage, true);
  conv.activation = activation_of(activation);
  return run(kind, conv, input, residual);
}

}  // namespace convfirst::cuda
