// MBConv: expand, spatial convolution, optional squeeze-excite, project, in one call.
#include "fused_block_op.h"

namespace convfirst {
namespace {

using Ints = std::vector<int64_t>;
using OptionalTensor = std::optional<Tensor>;

Tensor mbconv_packed(const Tensor input, const OptionalTensor expand_weight, const OptionalTensor expand_bias,
                     const Tensor conv_weight, const Tensor conv_bias, const Tensor project_weight,
                     const Tensor project_bias, const OptionalTensor residual, const Ints stride, const Ints padding,
                     const Ints dilation, int64_t groups, int64_t hidden_channels, int64_t out_channels,
                     const std::string activation, const std::string output_activation,
                     const OptionalTensor se_reduce_weight, const OptionalTensor se_reduce_bias,
                     const OptionalTensor se_expand_weight, const OptionalTensor se_expand_bias, int64_t se_channels,
                     const std::string se_activation, const std::string se_gate) {
  return run_packed_block(input, residual,
                          {expand_weight,
                           expand_bias,
                           conv_weight,
                           conv_bias,
                           project_weight,
                           project_bias,
                           stride,
                           padding,
                           dilation,
                           groups,
                           hidden_channels,
                           out_channels,
                           activation_of(activation, "activation"),
                           activation_of(output_activation, "output_activation"),
                           {se_reduce_weight, se_reduce_bias, se_expand_weight, se_expand_bias, se_channels,
                            activation_of(se_activation, "se_activation"), activation_of(se_gate, "se_gate")}});
}

STABLE_TORCH_LIBRARY_IMPL(convfirst, CPU, m) { m.impl("mbconv_packed", TORCH_BOX(&mbconv_packed)); }

}  // namespace
}  // namespace convfirst
