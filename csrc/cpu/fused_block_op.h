// Checks and runs a fused block on packed weights; shared by the operators that are forms of it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "fused_block.h"

namespace convfirst {

struct PackedSqueezeExcite {
  std::optional<Tensor> reduce_weight, reduce_bias, expand_weight, expand_bias;
  int64_t channels = 0;
  std::string activation = "relu", gate = "sigmoid";
};

struct PackedBlock {
  Tensor input;
  std::optional<Tensor> expand_weight, expand_bias;
  Tensor conv_weight, conv_bias, project_weight, project_bias;
  std::optional<Tensor> residual;
  std::vector<int64_t> stride, padding, dilation;
  int64_t groups, hidden_channels, out_channels;
  std::string activation, output_activation;
  PackedSqueezeExcite se;
};

Tensor run_packed_block(const PackedBlock& packed);

}  // namespace convfirst
