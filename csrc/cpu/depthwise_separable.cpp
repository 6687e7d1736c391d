// Depthwise, activation, pointwise, activation: a fused block without expansion.
#include "fused_block_op.h"

namespace convfirst {
namespace {

using Ints = std::vector<int64_t>;

Tensor depthwise_separable_packed(const Tensor input, const Tensor conv_weight, const Tensor conv_bias,
                                  const Tensor project_weight, const Tensor project_bias,
                                  const std::optional<Tensor> residual, const Ints stride, const Ints padding,
                                  const Ints dilation, int64_t out_channels, const std::string activation,
                                  const std::string output_activation) {
  const int64_t channels = input.dim() == 4 ? input.size(1) : 0;
  return run_packed_block(input, residual,
                          {std::nullopt,
                           std::nullopt,
                           conv_weight,
                           conv_bias,
                           project_weight,
                           project_bias,
                           stride,
                           padding,
                           dilation,
                           channels,
                           channels,
                           out_channels,
                           activation_of(activation, "activation"),
                           activation_of(output_activation, "output_activation"),
                           {}});
}

STABLE_TORCH_LIBRARY_IMPL(convfirst, CPU, m) {
  m.impl("depthwise_separable_packed", TORCH_BOX(&depthwise_separable_packed));
}

}  // namespace
}  // namespace convfirst
