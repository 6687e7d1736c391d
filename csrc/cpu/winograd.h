// Winograd convolutions: their driver, and the transforms of their weights.
#pragma once

#include "convolution.h"
#include "packing.h"

namespace convfirst {

// 3x3 with stride 1 by F(kOut x kOut, 3x3), kOut being 2 or 4; weights are packed like kernels of (kOut + 2)^2
// elements.
template <int kOut>
void run_winograd(const Convolution<float>& conv);

// Transforms a float32 (O, C, 3, 3) weight of any strides in fp32, into packed weights for F(4x4, 3x3).
void transform_weight(const Tensor& weight, float* packed);

}  // namespace convfirst
