// Checks the arguments of a zero-skipping convolution of CUDA tensors, allocates its output and launches it.
#include "skipping_conv_op.h"

#include "skipping_conv.h"

namespace convfirst::cuda {

Tensor run_skipping(const Tensor& input, const Tensor& weight, const OptionalTensor& bias, const Window& window,
                    bool transposed, const OutputSize& size) {
  const Image in = view_image(input, "input"), kernel = view_image(weight, "weight");
  STD_TORCH_CHECK(kernel.storage == in.storage, "weight must have the dtype of input.");
  SkippingConv conv{};
  conv.storage = in.storage, conv.window = window, conv.transposed = transposed;
  conv.n = in.n, conv.h = in.h, conv.w = in.w, conv.c = in.c;
  conv.k = to_int(size.k, "output channels"), conv.p = to_int(size.p, "output"), conv.q = to_int(size.q, "output");
  conv.input = in.data, conv.weight = kernel.data;
  if (bias) conv.bias = view_parameter(*bias, "bias", size.k, in.storage, false);
  const Device device(input);
  Tensor out = empty_nhwc(input, in.n, size.k, size.p, size.q);
  conv.output = view_image(out, "output").data;
  const char* reason = skipping_reason_against(conv);
  STD_TORCH_CHECK(reason == nullptr, "on CUDA ", reason, ".");
  if (out.numel() > 0) check_launch(skipping_forward(conv, device.stream()));
  return out;
}

}  // namespace convfirst::cuda
