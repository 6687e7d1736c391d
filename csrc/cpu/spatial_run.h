// A row of depthwise or group-width-8 outputs out of register tiles.
#pragma once

#include "../shapes.h"
#include "microkernels/api.h"

namespace convfirst {

constexpr int64_t kMaxKernelRows = 128;  // taller kernels are left to torch

// Computes `outputs` pixels of one channel block. s.rows stand at the first output's first input column; every column
// that the outputs reach must be readable.
void convolve_run(const SpatialFamily& family, const Window& window, const SpatialArgs& s, int64_t outputs);

}  // namespace convfirst
