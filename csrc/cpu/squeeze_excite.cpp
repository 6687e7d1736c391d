// Squeeze-excite on the sums of one image: mean, bottleneck, gate.
#include "fused_block.h"
#include "microkernels/isa.h"
#include "parallel.h"

namespace convfirst {
namespace {

constexpr int64_t kSharedProducts = 16384;  // fewer are done before another thread has come

// out = activation(weights * in + bias) for one pixel; output blocks are shared.
template <class E>
void dense_layer(const Kernels<E>& kernels, const E* in, int64_t inputs, const E* weights, const E* bias,
                 int64_t outputs, Activation activation, E* out) {
  constexpr int64_t kLanes = kLanesOf<E>;
  static constexpr int64_t kNoOffset[] = {0};
  const Clamp clamp = clamp_of(activation);
  const int64_t blocks = ceil_div(outputs, kLanes);
  const auto run = [&](int64_t first, int64_t last) {
    GemmArgs<E> g{};
    g.a = in, g.taps = kNoOffset, g.tap_count = 1, g.depth = inputs;
    g.b = weights + first * inputs * kLanes, g.b_block = inputs * kLanes;
    g.init = bias + first * kLanes, g.init_block = kLanes;
    g.c = out + first * kLanes, g.c_block = kLanes, g.low = clamp.low, g.high = clamp.high, g.last_lanes = kLanes;
    multiply(kernels, g, 1, last - first);
    if (!clamp.exact) kernels.activate(out + first * kLanes, last - first, activation);
  };
  inputs * blocks * kLanes < kSharedProducts ? run(0, blocks) : share_tasks(blocks, run);
}

// The means of sums in E; the sums become means too.
template <class E>
void take_means(float* sums, int64_t channels, int64_t pixels, E* means) {
  const float scale = 1.0f / static_cast<float>(pixels);
  for (int64_t c = 0; c < channels; ++c) sums[c] *= scale;
  FinishArgs<float> f{};
  f.in = sums, f.in_block = convfirst::kLanes, f.out = means, f.pixels = 1, f.channels = channels;
  kernels_for<float>().finish[static_cast<int>(StorageOf<E>::value)](f);
}

}  // namespace

template <class E>
void excite(const Kernels<E>& kernels, const FusedBlock<E>& block, float* sums, int64_t pixels, E* scratch, E* gate) {
  const SqueezeExcite<E>& se = block.se;
  E* means = scratch;
  E* bottleneck = scratch + block.hidden_blocks() * kLanesOf<E>;
  take_means(sums, block.hidden, pixels, means);
  dense_layer(kernels, means, block.hidden, se.reduce_weights, se.reduce_bias, se.squeezed, se.activation, bottleneck);
  dense_layer(kernels, bottleneck, se.squeezed, se.expand_weights, se.expand_bias, block.hidden, se.gate, gate);
}

template void excite(const Kernels<float>&, const FusedBlock<float>&, float*, int64_t, float*, float*);
template void excite(const Kernels<Half>&, const FusedBlock<Half>&, float*, int64_t, Half*, Half*);

}  // namespace convfirst
