// Transposed convolution of CUDA tensors: dense without inserted zeros, or as the data gradient of a depthwise
// convolution or one of group width 8 or 16.
#include "depthwise_conv2d.h"
#include "grouped_conv2d.h"
#include "skipping_conv_op.h"
#include "tensor.h"

namespace convfirst::cuda {
namespace {

Tensor plain(const Tensor input, const Tensor weight, const OptionalTensor bias, const Ints stride, const Ints padding,
             const Ints output_padding, const Ints dilation, int64_t groups) {
  const Image grad = view_image(input, "input");
  STD_TORCH_CHECK(weight.dim() == 4 && weight.size(0) == grad.c, "weight must be (C, O / groups, R, S) with ", grad.c,
                  " input channels.");
  STD_TORCH_CHECK(groups > 0 && grad.c > 0 && grad.c % groups == 0, "groups must divide the ", grad.c,
                  " input channels, but is ", groups, ".");
  STD_TORCH_CHECK(output_padding.size() == 2 && output_padding[0] >= 0 && output_padding[1] >= 0,
                  "output_padding must be two numbers >= 0.");
  const convfirst::Window w = convfirst::window_of(weight.size(2), weight.size(3), stride, padding, dilation);
  // A single group of 8 or 16 channels whose weight has torch's layout is a gradient of that group width.
  const bool narrow = weight.size(1) == grad.c && (grad.c == 8 || grad.c == 16) && w.kernel_h * w.kernel_w > 1 &&
                      weight.is_contiguous();
  if (groups == 1 && weight.size(1) > 1 && !narrow) {
    const int64_t h = (grad.h - 1) * w.stride_h - w.top - w.bottom + w.span_h() + output_padding[0];
    const int64_t width = (grad.w - 1) * w.stride_w - w.left - w.right + w.span_w() + output_padding[1];
    return run_skipping(input, weight, bias, window_of(w.kernel_h, w.kernel_w, stride, padding, dilation), true,
                        {weight.size(1), h, width});
  }
  STD_TORCH_CHECK(!bias, "bias must be None on CUDA where there are groups.");
  Convolution conv{};
  conv.storage = grad.storage;
  conv.window = window_of(w.kernel_h, w.kernel_w, stride, padding, dilation);
  conv.n = grad.n, conv.c = to_int(weight.size(1) * groups, "output channels");
  conv.h = to_int((grad.h - 1) * w.stride_h - w.top - w.bottom + w.span_h() + output_padding[0], "output");
  conv.w = to_int((grad.w - 1) * w.stride_w - w.left - w.right + w.span_w() + output_padding[1], "output");
  conv.p = grad.h, conv.q = grad.w, conv.k = grad.c;
  conv.weights = {{}, false, to_int(weight.size(1), "weight"), conv.window.taps()};
  conv.weights.data = view_parameter(weight, "weight", weight.numel(), grad.storage, false);
  conv.output = grad.data;
  const Device device(input);
  Tensor out = empty_nhwc(input, conv.n, conv.c, conv.h, conv.w);
  conv.input = view_image(out, "output").data;
  const bool depthwise = weight.size(1) == 1;
  const char* reason = depthwise ? nullptr : grouped_reason_against(conv);
  STD_TORCH_CHECK(reason == nullptr, "on CUDA ", reason, ".");
  if (out.numel() > 0) check_launch((depthwise ? depthwise_data_grad : grouped_data_grad)(conv, device.stream()));
  return out;
}

CONVFIRST_CUDA_OPERATORS(m) { m.impl("split_conv_transpose2d", TORCH_BOX(&plain)); }

}  // namespace
}  // namespace convfirst::cuda
