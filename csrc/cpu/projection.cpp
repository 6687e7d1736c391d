// Projects parts of the hidden channels, see projection.h.
#include "projection.h"

#include <algorithm>
#include <numeric>

namespace convfirst {
namespace {

// Taps of gcd(hidden, lanes) channels, so that the last hidden block's padding is never multiplied.
template <class E>
int64_t tap_depth(const Projection<E>& layer) {
  return std::gcd(layer.hidden, int64_t{kLanesOf<E>});
}

template <class E>
int64_t set_taps(const Projection<E>& layer, const ProjectionPart<E>& part) {
  constexpr int64_t kLanes = kLanesOf<E>;
  const int64_t depth = tap_depth(layer), channels = std::min(part.count * kLanes, layer.hidden - part.first * kLanes);
  for (int64_t t = 0; t < channels / depth; ++t) {
    part.taps[t] = t * depth / kLanes * part.hidden_block + t * depth % kLanes;
  }
  return channels / depth;
}

}  // namespace

template <class E>
int64_t Projection<E>::tap_floats(int64_t blocks) const {
  return 2 * blocks * kLanes / tap_depth(*this);
}

template <class E>
void project(const Kernels<E>& kernels, const Projection<E>& layer, const ProjectionPart<E>& part) {
  constexpr int64_t kLanes = kLanesOf<E>;
  const bool starts = part.first == 0, ends = part.first + part.count == layer.hidden_blocks();
  const bool in_place = ends && layer.storage == StorageOf<E>::value;
  const Clamp clamp = clamp_of(ends ? layer.activation : Activation::kIdentity);
  const int64_t element = part.position * layer.out_c + part.block * kLanes;
  void* out = offset(layer.out, layer.storage, element);
  const void* residual = layer.residual ? offset(layer.residual, layer.storage, element) : nullptr;
  GemmArgs<E> g{};
  g.a = part.hidden, g.a_stride = kLanes;
  g.taps = part.taps, g.tap_count = set_taps(layer, part), g.depth = tap_depth(layer);
  g.b = layer.weights + (part.block * layer.hidden + part.first * kLanes) * kLanes, g.b_block = layer.hidden * kLanes;
  g.init = layer.bias + part.block * kLanes, g.init_block = kLanes;
  if (!starts) start_from(g, part.sums), g.init_stride = kLanes, g.init_block = part.sum_block;
  if (in_place) {
    g.c = static_cast<E*>(out), g.c_stride = layer.out_c, g.c_block = kLanes;
    g.streams = layer.streams;
    g.residual = clamp.exact ? static_cast<const E*>(residual) : nullptr, g.residual_stride = layer.out_c;
  } else {
    leave_in(g, part.sums), g.c_stride = kLanes, g.c_block = part.sum_block;
  }
  g.low = clamp.low, g.high = clamp.high;
  const bool tail = part.block + part.blocks == layer.out_blocks();
  g.last_lanes = tail ? layer.out_c - (layer.out_blocks() - 1) * kLanes : kLanes;
  multiply(kernels, g, part.pixels, part.blocks);
  if (!ends || (in_place && clamp.exact)) return;
  FinishArgs<E> f{};
  f.in = in_place ? g.c : reinterpret_cast<const E*>(part.sums), f.in_stride = g.c_stride, f.in_block = g.c_block;
  f.out = out, f.out_stride = layer.out_c;
  f.residual = residual, f.residual_stride = layer.out_c, f.pixels = part.pixels;
  f.channels = (part.blocks - 1) * kLanes + g.last_lanes, f.activation = layer.activation;
  kernels.finish[static_cast<int>(layer.storage)](f);
}

template struct Projection<float>;
template struct Projection<Half>;
template void project(const Kernels<float>&, const Projection<float>&, const ProjectionPart<float>&);
template void project(const Kernels<Half>&, const Projection<Half>&, const ProjectionPart<Half>&);

}  // namespace convfirst
