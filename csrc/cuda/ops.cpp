// Schemas of the operators that only CUDA has: the rest of the table of contents is csrc/ops.cpp.
#include "tensor.h"

STABLE_TORCH_LIBRARY_FRAGMENT(CONVFIRST_NAMESPACE, m) {
  m.def(
      "convfirst(Tensor input, Tensor conv_weight, Tensor? conv_bias, Tensor expand_weight, Tensor? expand_bias, "
      "Tensor project_weight, Tensor? project_bias, str conv_activation, str activation, int stride, bool residual) -> "
      "Tensor");
  m.def(
      "mbconv(Tensor input, Tensor expand_weight, Tensor? expand_bias, Tensor conv_weight, Tensor? conv_bias, "
      "Tensor project_weight, Tensor? project_bias, Tensor? se_reduce_weight, Tensor? se_reduce_bias, "
      "Tensor? se_expand_weight, Tensor? se_expand_bias, str activation, str se_activation, bool residual) -> Tensor");
  m.def(
      "mbconv_passes(Tensor input, Tensor? expand_weight, Tensor? expand_bias, Tensor conv_weight, Tensor? conv_bias, "
      "Tensor project_weight, Tensor? project_bias, Tensor? residual, Tensor? se_reduce_weight, Tensor? "
      "se_reduce_bias, Tensor? se_expand_weight, Tensor? se_expand_bias, int stride, int[4] padding, bool blur, "
      "str activation, str output_activation, str se_activation, str se_gate) -> Tensor");
}
