// Squeeze-excite on the sums of one image: mean, bottleneck, gate.
#include "fused_block.h"
#include "parallel.h"

namespace convfirst {
namespace {

constexpr int64_t kSharedProducts = 16384;  // fewer are done before another thread has come

// out = activation(weights * in + bias) for one pixel; output blocks are shared.
void dense_layer(const KernelTable& kernels, const float* in, int64_t inputs, const float* weights, const float* bias,
                 int64_t outputs, Activation activation, float* out) {
  static constexpr int64_t kNoOffset[] = {0};
  const Clamp clamp = clamp_of(activation);
  const int64_t blocks = ceil_div(outputs, kLanes);
  const auto run = [&](int64_t first, int64_t last) {
    GemmArgs g{};
    g.a = in, g.taps = kNoOffset, g.tap_count = 1, g.depth = inputs;
    g.b = weights + first * inputs * kLanes, g.b_block = inputs * kLanes;
    g.init = bias + first * kLanes, g.init_block = kLanes;
    g.c = out + first * kLanes, g.c_block = kLanes, g.low = clamp.low, g.high = clamp.high, g.last_lanes = kLanes;
    multiply(kernels, g, 1, last - first);
    if (!clamp.exact) kernels.activate(g.c, last - first, activation);
  };
  inputs * blocks * kLanes < kSharedProducts ? run(0, blocks) : share_tasks(blocks, run);
}

}  // namespace

void excite(const KernelTable& kernels, const FusedBlock& block, const float* sums, int64_t pixels, float* scratch,
            float* gate) {
  const SqueezeExcite& se = block.se;
  float* means = scratch;
  float* bottleneck = scratch + block.hidden_blocks() * kLanes;
  const float scale = 1.0f / static_cast<float>(pixels);
  for (int64_t c = 0; c < block.hidden; ++c) means[c] = sums[c] * scale;
  dense_layer(kernels, means, block.hidden, se.reduce_weights, se.reduce_bias, se.squeezed, se.activation, bottleneck);
  dense_layer(kernels, bottleneck, se.squeezed, se.expand_weights, se.expand_bias, block.hidden, se.gate, gate);
}

}  // namespace convfirst
