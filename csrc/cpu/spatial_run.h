// A row of depthwise or group-width-8 outputs out of register tiles.
#pragma once

#include "../shapes.h"
#include "microkernels/api.h"

namespace convfirst {

constexpr int64_t kMaxKernelRows = 128;  // taller kernels are left to torch

// The kernel and tile width for rows of one length, chosen once for many rows.
template <class E>
struct RunPlan {
  SpatialKernel<E> kernel;
  int64_t width;
};
template <class E>
RunPlan<E> plan_run(const SpatialFamily<E>& family, const Window& window, int64_t outputs);

// Computes s.runs rows of `outputs` pixels of one channel block. s.rows stand at the first output's first input column;
// every column that the outputs reach must be readable.
template <class E>
void convolve_run(const RunPlan<E>& plan, const Window& window, const SpatialArgs<E>& s, int64_t outputs);

}  // namespace convfirst
