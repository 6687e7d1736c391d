// What the kernels of ConvFirst blocks share: the grouped convolution's weights and products, and the way of results
// out of shared memory.
#pragma once

#include "convfirst.h"
#include "feed_forward.cuh"

namespace convfirst::cuda {

constexpr int kBlockWarps = 8, kBlockThreads = kBlockWarps * kWarp;
constexpr int kBlockColumns = 16;  // pixels of a product
constexpr int kTaps = 9, kGroup = 8;

// B fragments of the convolution, [group][tap][lane]: a lane's two elements are neighbours.
template <class T>
CONVFIRST_DEVICE void stage_conv_weights(Shared<T> to, const ConvFirstBlock& block) {
  const Global<const T> weight(block.conv_weight);
  for (int i = static_cast<int>(threadIdx.x); i < block.c / kGroup * kTaps * kWarp; i += kBlockThreads) {
    const int of = i % kWarp, tap = i / kWarp % kTaps, output = i / (kWarp * kTaps) * kGroup + of / 4;
    const int64_t from = static_cast<int64_t>(output * kGroup + 2 * (of % 4)) * kTaps + tap;
    to.template store_vector<2>(2 * i, {{weight.load(from), weight.load(from + kTaps)}});
  }
}

// One group's convolution of 16 pixels. at(tap) is where the lane's own pixel of 8 channels lies that the tap meets.
template <class T, class Place>
CONVFIRST_DEVICE void convolve_group(const ConvFirstBlock& block, Shared<T> weights, int group, int lane,
                                     const Place& at, float (&d)[4]) {
  const int channel = group * kGroup + 2 * (lane % 4);
  d[0] = d[2] = bias_at(block.conv_bias, channel, block.c);
  d[1] = d[3] = bias_at(block.conv_bias, channel + 1, block.c);
  const auto fragment = [&](int tap) {
    return bits_as<unsigned>(weights.template load_vector<2>(2 * ((group * kTaps + tap) * kWarp + lane)));
  };
  CONVFIRST_UNROLL
  for (int i = 0; i + 1 < kTaps; i += 2) {
    unsigned a[4];
    load_matrices<false>(a, at(lane < 16 ? i : i + 1));
    const unsigned b[2] = {fragment(i), fragment(i + 1)};
    multiply_16x8x16<T>(d, a, b);
  }
  unsigned a[2];
  load_matrices<false>(a, at(kTaps - 1));
  multiply_16x8x8<T>(d, a, fragment(kTaps - 1));
  CONVFIRST_UNROLL
  for (int i = 0; i < 4; ++i) d[i] = block.conv_relu ? relu(d[i]) : d[i];
}

// A row of up to 16 pixels from shared memory, `stride` elements apart, to `output`; all lanes of a warp take part.
template <class T>
CONVFIRST_DEVICE void store_pixels(Shared<T> from, int stride, Global<T> output, int columns, int channels, int lane) {
  const int vectors = channels / 8;
  for (int i = lane; i < columns * vectors; i += kWarp) {
    const int column = i / vectors, channel = i % vectors * 8;
    const auto values = (from + column * stride + channel).template load_vector<8>(0);
    output.template store_vector<8>(i * 8, values);
  }
}

}  // namespace convfirst::cuda
