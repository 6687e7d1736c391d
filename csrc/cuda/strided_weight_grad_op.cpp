// Weight gradient of CUDA tensors, in their dtype and deterministic: depthwise convolutions and group width 8 or 16.
#include "convolution_op.h"
#include "depthwise_conv2d.h"
#include "grouped_conv2d.h"

namespace convfirst::cuda {
namespace {

Tensor strided_weight_grad(const Tensor input, const Tensor grad, const Ints kernel_size, const Ints stride,
                           const Ints padding, const Ints dilation, int64_t groups) {
  const Image in = view_image(input, "input"), out = view_image(grad, "grad");
  STD_TORCH_CHECK(in.storage == out.storage, "grad must have the dtype of input.");
  STD_TORCH_CHECK(kernel_size.size() == 2, "kernel_size must be two numbers.");
  STD_TORCH_CHECK(groups > 0 && in.c % groups == 0, "groups must divide the ", in.c, " input channels, but is ", groups,
                  ".");
  Convolution conv =
      describe(in, {out.c, in.c / groups, kernel_size[0], kernel_size[1], false}, stride, padding, dilation, groups);
  STD_TORCH_CHECK(out.n == conv.n && out.h == conv.p && out.w == conv.q,
                  "grad must have the shape of the convolution's output.");
  conv.output = out.data;
  const bool depthwise = conv.weights.group_in == 1;
  const char* reason = depthwise ? nullptr : grouped_reason_against(conv);
  STD_TORCH_CHECK(reason == nullptr, "on CUDA ", reason, ".");
  const Device device(input);
  const int64_t sizes[] = {conv.k, conv.weights.group_in, conv.window.kernel_h, conv.window.kernel_w};
  Tensor result = torch::stable::new_empty(input, {sizes, 4});
  if (in.n == 0) return torch::stable::zero_(result);
  Tensor workspace =
      empty_floats(input, depthwise ? depthwise_weight_grad_floats(conv) : grouped_weight_grad_floats(conv));
  const auto run = depthwise ? depthwise_weight_grad : grouped_weight_grad;
  check_launch(run(conv, buffer_of(result, element_bytes(in.storage)), buffer_of(workspace, 4), device.stream()));
  return result;
}

CONVFIRST_CUDA_OPERATORS(m) { m.impl("strided_weight_grad", TORCH_BOX(&strided_weight_grad)); }

}  // namespace
}  // namespace convfirst::cuda
