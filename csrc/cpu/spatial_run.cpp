// Cuts a row of outputs into register tiles.
#include "spatial_run.h"

#include <algorithm>
#include <limits>

namespace convfirst {
namespace {

template <class E>
const SpatialKernel<E>* family_for(const SpatialFamily<E>& family, const Window& w) {
  const bool square = w.kernel_h == w.kernel_w && (w.kernel_h == 3 || w.kernel_h == 5 || w.kernel_h == 7);
  const bool plain = w.dilation_w == 1 && w.stride_w <= 2;
  if (square && plain) {
    const SpatialKernel<E>* special = family.special[(w.kernel_h - 3) / 2][w.stride_w - 1];
    if (special[kTileWidthCount - 1]) return special;
  }
  return family.generic;
}

// The last tile is moved back over outputs already computed rather than cut, so a tile costs its width and a fixed
// part for weights and bias.
template <class E>
int best_tile(const SpatialKernel<E>* kernels, int64_t outputs) {
  int best = kTileWidthCount - 1;
  double best_cost = std::numeric_limits<double>::infinity();
  for (int i = 0; i < kTileWidthCount; ++i) {
    const int64_t width = kTileWidths[i];
    if (!kernels[i] || width > outputs) continue;
    const double cost = static_cast<double>(ceil_div(outputs, width)) * (static_cast<double>(width) + 1.5);
    if (cost < best_cost) best = i, best_cost = cost;
  }
  return best;
}

}  // namespace

template <class E>
RunPlan<E> plan_run(const SpatialFamily<E>& family, const Window& window, int64_t outputs) {
  const SpatialKernel<E>* kernels = family_for(family, window);
  const int tile = best_tile<E>(kernels, outputs);
  return {kernels[tile], kTileWidths[tile]};
}

template <class E>
void convolve_run(const RunPlan<E>& plan, const Window& window, const SpatialArgs<E>& args, int64_t outputs) {
  SpatialArgs<E> s = args;
  s.kernel_h = window.kernel_h, s.kernel_w = window.kernel_w;
  s.stride = window.stride_w, s.dilation = window.dilation_w;
  for (int64_t done = 0; done < outputs;) {
    const int64_t x = std::min(done, outputs - plan.width);
    s.in_offset = x * window.stride_w * args.in_stride;
    s.out = args.out + x * args.out_stride;
    plan.kernel(s);
    done = x + plan.width;
  }
}

template RunPlan<float> plan_run(const SpatialFamily<float>&, const Window&, int64_t);
template RunPlan<Half> plan_run(const SpatialFamily<Half>&, const Window&, int64_t);
template void convolve_run(const RunPlan<float>&, const Window&, const SpatialArgs<float>&, int64_t);
template void convolve_run(const RunPlan<Half>&, const Window&, const SpatialArgs<Half>&, int64_t);

}  // namespace convfirst
