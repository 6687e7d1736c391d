// The packed weight layout, [ceil(O / 16)][R][S][K][16] in fp32: one load gives the 16 output channels of a product.
#pragma once

#include <vector>

#include "tensor.h"

namespace convfirst {

struct WeightShape {
  int64_t out_c, group_in, kernel_h, kernel_w;
  int64_t blocks() const { return ceil_div(out_c, kLanes); }
  int64_t packed_floats() const { return blocks() * kernel_h * kernel_w * group_in * kLanes; }
};

WeightShape weight_shape(const Tensor& weight);

// Packs an (O, K, R, S) tensor of any strides; lanes beyond O are zero.
void pack_weight_into(const Tensor& weight, float* packed);

// The bias in whole blocks, zeros where there is none.
std::vector<float> padded_bias(const std::optional<Tensor>& bias, int64_t out_c);

}  // namespace convfirst
