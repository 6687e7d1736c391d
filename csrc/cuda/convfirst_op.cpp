// ConvFirst blocks of CUDA tensors: weights in torch's layouts and the input's dtype, biases in fp32.
#include "convfirst.h"
#include "tensor.h"

namespace convfirst::cuda {
namespace {

Tensor convfirst(const Tensor input, const Tensor conv_weight, const OptionalTensor conv_bias,
                 const Tensor expand_weight, const OptionalTensor expand_bias, const Tensor project_weight,
                 const OptionalTensor project_bias, const std::string conv_activation, const std::string activation,
                 int64_t stride, bool residual) {
  const Image in = view_image(input, "input");
  STD_TORCH_CHECK(expand_weight.dim() == 4, "expand_weight must have 4 dimensions (E, C, 1, 1).");
  STD_TORCH_CHECK(project_weight.dim() == 4, "project_weight must have 4 dimensions (O, E, 1, 1).");
  STD_TORCH_CHECK(stride == 1 || stride == 2, "stride must be 1 or 2, but is ", stride, ".");
  const int64_t c = in.c, hidden = expand_weight.size(0), outputs = project_weight.size(0);
  STD_TORCH_CHECK(!residual || (stride == 1 && outputs == c),
                  "residual must be False where the output has another shape than the input.");
  STD_TORCH_CHECK(conv_activation == "identity" || conv_activation == "relu",
                  "conv_activation must be identity or relu on CUDA, but is '", conv_activation, "'.");
  ConvFirstBlock block{};
  block.storage = in.storage;
  block.n = in.n, block.h = in.h, block.w = in.w, block.c = in.c;
  block.stride = static_cast<int>(stride);
  block.residual = residual;
  block.conv_relu = conv_activation == "relu";
  block.input = in.data;
  block.conv_weight = view_weight(conv_weight, "conv_weight", {c, 8, 3, 3}, in.storage);
  block.conv_bias = view_bias(conv_bias, "conv_bias", c, in.storage);
  FeedForwardLayers& ffn = block.ffn;
  ffn.inputs = to_int(c * stride, "input");
  ffn.hidden = to_int(hidden, "hidden channels");
  ffn.outputs = to_int(outputs, "output channels");
  ffn.activation = activation_of(activation);
  ffn.expand_weight = view_weight(expand_weight, "expand_weight", {hidden, c * stride, 1, 1}, in.storage);
  ffn.project_weight = view_weight(project_weight, "project_weight", {outputs, hidden, 1, 1}, in.storage);
  ffn.expand_bias = view_bias(expand_bias, "expand_bias", hidden, in.storage);
  ffn.project_bias = view_bias(project_bias, "project_bias", outputs, in.storage);
  const Device device(input);
  STD_TORCH_CHECK(in.h > 0 && in.w > 0, "input must have at least one pixel.");
  Tensor out = empty_nhwc(input, in.n, outputs, block.out_h(), block.out_w());
  block.output = view_image(out, "output").data;
  const char* reason = convfirst_reason_against(block);
  STD_TORCH_CHECK(reason == nullptr, "on CUDA ", reason, ".");
  if (out.numel() > 0) check_launch(convfirst_forward(block, device.stream()));
  return out;
}

CONVFIRST_CUDA_OPERATORS(m) { m.impl("convfirst", TORCH_BOX(&convfirst)); }

}  // namespace
}  // namespace convfirst::cuda
