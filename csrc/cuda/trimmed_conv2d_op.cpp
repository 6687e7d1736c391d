// Dense convolution of CUDA tensors without the products of padded zeros.
#include "skipping_conv_op.h"

namespace convfirst::cuda {
namespace {

Tensor plain(const Tensor input, const Tensor weight, const OptionalTensor bias, const Ints stride, const Ints padding,
             const Ints dilation, int64_t groups) {
  STD_TORCH_CHECK(input.dim() == 4 && weight.dim() == 4, "input and weight must have 4 dimensions.");
  STD_TORCH_CHECK(groups == 1, "groups must be 1 on CUDA, but is ", groups, ".");
  STD_TORCH_CHECK(weight.size(1) == input.size(1), "weight must have ", input.size(1), " input channels, but has ",
                  weight.size(1), ".");
  const convfirst::Window w = convfirst::window_of(weight.size(2), weight.size(3), stride, padding, dilation);
  check_output(w, input.size(2), input.size(3));
  return run_skipping(input, weight, bias, window_of(w.kernel_h, w.kernel_w, stride, padding, dilation), false,
                      {weight.size(0), w.out_h(input.size(2)), w.out_w(input.size(3))});
}

CONVFIRST_CUDA_OPERATORS(m) { m.impl("trimmed_conv2d", TORCH_BOX(&plain)); }

}  // namespace
}  // namespace convfirst::cuda
