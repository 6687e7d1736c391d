// ConvFirst blocks of CUDA tensors: weights in torch's layouts and the input's dtype, biases in fp32.
#include "convfirst.h"
#include "tensor.h"

namespace convfirst::cuda {
namespace {

Tensor convfirst(const Tensor input, const Tensor conv_weight, const OptionalTensor conv_bias,
                 const Tensor expand_weight, const OptionalTensor expand_bias, const Tensor project_weight,
                 const OptionalTensor project_bias, const std::string conv_activation, const std::string activation,
                 bool residual) {
  const Image in = view_image(input, "input");
  STD_TORCH_CHECK(expand_weight.dim() == 4, "expand_weight must have 4 dimensions (E, C, 1, 1).");
  const int64_t c = in.c, hidden = expand_weight.size(0);
  ConvFirstBlock block{};
  block.storage = in.storage;
  block.n = in.n, block.h = in.h, block.w = in.w, block.c = in.c;
  block.hidden = to_int(hidden, "hidden channels");
  block.residual = residual;
  STD_TORCH_CHECK(conv_activation == "identity" || conv_activation == "relu",
                  "conv_activation must be identity or relu on CUDA, but is '", conv_activation, "'.");
  block.conv_relu = conv_activation == "relu";
  block.activation = activation_of(activation);
  block.input = in.data;
  block.conv_weight = view_weight(conv_weight, "conv_weight", {c, 8, 3, 3}, in.storage);
  block.expand_weight = view_weight(expand_weight, "expand_weight", {hidden, c, 1, 1}, in.storage);
  block.project_weight = view_weight(project_weight, "project_weight", {c, hidden, 1, 1}, in.storage);
  block.conv_bias = view_bias(conv_bias, "conv_bias", c, in.storage);
  block.expand_bias = view_bias(expand_bias, "expand_bias", hidden, in.storage);
  block.project_bias = view_bias(project_bias, "project_bias", c, in.storage);
  const Device device(input);
  Tensor out = empty_nhwc(input, in.n, in.c, in.h, in.w);
  block.output = view_image(out, "output").data;
  const char* reason = convfirst_reason_against(block);
  STD_TORCH_CHECK(reason == nullptr, "on CUDA ", reason, ".");
  if (out.numel() > 0) check_launch(convfirst_forward(block, device.stream()));
  return out;
}

CONVFIRST_CUDA_OPERATORS(m) { m.impl("convfirst", TORCH_BOX(&convfirst)); }

}  // namespace
}  // namespace convfirst::cuda
