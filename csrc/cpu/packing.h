// The packed weight layout, [ceil(O / 16)][R][S][K][16] in fp32: one load gives the 16 output channels of a product.
// fp16 arithmetic has blocks of 32 channels; convfirst_ext/ops/chain.py makes them of these.
#pragma once

#include <vector>

#include "tensor.h"

namespace convfirst {

struct WeightShape {
  int64_t out_c, group_in, kernel_h, kernel_w;
  int64_t blocks() const { return ceil_div(out_c, kLanes); }
  int64_t packed_floats() const { return packed_elements(kLanes); }
  int64_t packed_elements(int64_t lanes) const {
    return ceil_div(out_c, lanes) * lanes * kernel_h * kernel_w * group_in;
  }
};

WeightShape weight_shape(const Tensor& weight);

// An uninitialised packed weight.
Tensor empty_packed(const WeightShape& shape);

// Packs an (O, K, R, S) tensor of any strides; lanes beyond O are zero.
void pack_weight_into(const Tensor& weight, float* packed);

// The same for a transposed convolution's (C, O / groups, R, S) weight, as one of O channels.
void pack_transposed_weight_into(const Tensor& weight, int64_t groups, float* packed);

// The bias in whole blocks, zeros where there is none.
std::vector<float> padded_bias(const std::optional<Tensor>& bias, int64_t out_c);

}  // namespace convfirst
