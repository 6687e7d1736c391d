// Checks and runs a fused block on packed weights; shared by the operators that are forms of it.
#pragma once

#include <optional>
#include <vector>

#include "fused_block.h"

namespace convfirst {

struct PackedSqueezeExcite {
  std::optional<Tensor> reduce_weight, reduce_bias, expand_weight, expand_bias;
  int64_t channels = 0;
  Activation activation = Activation::kRelu, gate = Activation::kSigmoid;
};

struct PackedBlock {
  std::optional<Tensor> expand_weight, expand_bias;
  Tensor conv_weight, conv_bias, project_weight, project_bias;
  std::vector<int64_t> stride, padding, dilation;
  int64_t groups, hidden_channels, out_channels;
  Activation activation, output_activation;
  PackedSqueezeExcite se;
};

// A block whose tensors fit each other; residual and out are the caller's to set.
FusedBlock describe_block(const PackedBlock& packed, const ImageView& in);

Tensor run_packed_block(const Tensor& input, const std::optional<Tensor>& residual, const PackedBlock& packed);

}  // namespace convfirst
