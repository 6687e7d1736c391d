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

// Sets the convolution of a block whose input, hidden and output channels are set, and checks that they fit.
template <class E>
void set_spatial(FusedBlock<E>& block, const Window& window, int64_t groups, bool expands);

Tensor run_packed_block(const Tensor& input, const std::optional<Tensor>& residual, const PackedBlock& packed);

}  // namespace convfirst
