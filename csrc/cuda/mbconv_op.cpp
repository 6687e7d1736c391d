// MBConv blocks of CUDA tensors: weights in torch's layouts and the input's dtype, biases and squeeze-excite in fp32.
#include "mbconv.h"
#include "tensor.h"

namespace convfirst::cuda {
namespace {

Tensor mbconv(const Tensor input, const Tensor expand_weight, const OptionalTensor expand_bias,
              const Tensor conv_weight, const OptionalTensor conv_bias, const Tensor project_weight,
              const OptionalTensor project_bias, const OptionalTensor se_reduce_weight,
              const OptionalTensor se_reduce_bias, const OptionalTensor se_expand_weight,
              const OptionalTensor se_expand_bias, const std::string activation, const std::string se_activation,
              bool residual) {
  const Image in = view_image(input, "input");
  STD_TORCH_CHECK(expand_weight.dim() == 4, "expand_weight must have 4 dimensions (E, C, 1, 1).");
  const int64_t c = in.c, hidden = expand_weight.size(0);
  MBConvBlock block{};
  block.storage = in.storage;
  block.n = in.n, block.h = in.h, block.w = in.w, block.c = in.c;
  block.hidden = to_int(hidden, "hidden channels");
  block.residual = residual;
  block.activation = activation_of(activation);
  block.input = in.data;
  block.expand_weight = view_weight(expand_weight, "expand_weight", {hidden, c, 1, 1}, in.storage);
  block.conv_weight = view_weight(conv_weight, "conv_weight", {hidden, 8, 3, 3}, in.storage);
  block.project_weight = view_weight(project_weight, "project_weight", {c, hidden, 1, 1}, in.storage);
  block.expand_bias = view_bias(expand_bias, "expand_bias", hidden, in.storage);
  block.conv_bias = view_bias(conv_bias, "conv_bias", hidden, in.storage);
  block.project_bias = view_bias(project_bias, "project_bias", c, in.storage);
  STD_TORCH_CHECK(se_reduce_weight.has_value() == se_expand_weight.has_value(),
                  "se_reduce_weight and se_expand_weight must both be given or both be None.");
  if (se_reduce_weight) {
    STD_TORCH_CHECK(se_reduce_weight->dim() == 4, "se_reduce_weight must have 4 dimensions (S, E, 1, 1).");
    const int64_t squeezed = se_reduce_weight->size(0);
    block.squeezed = to_int(squeezed, "squeezed channels");
    block.se_activation = activation_of(se_activation);
    block.se_reduce_weight =
        view_weight(*se_reduce_weight, "se_reduce_weight", {squeezed, hidden, 1, 1}, in.storage, true);
    block.se_expand_weight =
        view_weight(*se_expand_weight, "se_expand_weight", {hidden, squeezed, 1, 1}, in.storage, true);
    block.se_reduce_bias = view_bias(se_reduce_bias, "se_reduce_bias", squeezed, in.storage);
    block.se_expand_bias = view_bias(se_expand_bias, "se_expand_bias", hidden, in.storage);
  }
  const Device device(input);
  Tensor out = empty_nhwc(input, in.n, in.c, in.h, in.w);
  block.output = view_image(out, "output").data;
  const char* reason = mbconv_reason_against(block);
  STD_TORCH_CHECK(reason == nullptr, "on CUDA ", reason, ".");
  if (out.numel() > 0) check_launch(mbconv_forward(block, device.stream()));
  return out;
}

CONVFIRST_CUDA_OPERATORS(m) { m.impl("mbconv", TORCH_BOX(&mbconv)); }

}  // namespace
}  // namespace convfirst::cuda
