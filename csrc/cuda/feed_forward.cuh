// Two products with an activation between them, whose hidden tensor stays in registers: what ConvFirst blocks end with
// (Lavin, arXiv 2404.03617, section 5.5.1).
//
// A warp holds its pixels' inputs as A operands, 16 pixels a tile. Hidden channels come in chunks of 32: cp.async
// brings the next chunk's rows of both matrices while this one is used; a warp expands 16 hidden channels, activates
// them in registers, which again are an A operand, and adds their products to the outputs' sums in fp32.
#pragma once

#include "device/async_copy.cuh"
#include "device/mma.cuh"
#include "feed_forward.h"

namespace convfirst::cuda {

constexpr int kHiddenChunk = 32;
constexpr int kPad = 8;  // elements behind every row: ldmatrix meets all banks

CONVFIRST_DEVICE float bias_at(const Buffer& bias, int i, int count) {
  return bias.data && i < count ? Global<const float>(bias).load(i) : 0.0f;
}

// What kBlocks x 16 channels need of shared memory; the larger of inputs and outputs, rounded up.
template <int kBlocks>
struct FeedForwardShape {
  static constexpr int kChannels = 16 * kBlocks;
  static constexpr int kStride = kChannels + kPad;  // of a row of the expansion's weights
  static constexpr int kProjectStride = kHiddenChunk + kPad;
  static constexpr int kExpand = kHiddenChunk * kStride, kProject = kChannels * kProjectStride;  // elements
  static constexpr int kElements = 2 * (kExpand + kProject);
};

// kTiles: tiles of 16 pixels that a warp takes. All kThreads threads of the block take part.
template <class T, int kBlocks, int kTiles, int kThreads>
struct FeedForward {
  using Shape = FeedForwardShape<kBlocks>;
  const FeedForwardLayers& layers;
  Shared<T> weights;
  int lane;

  CONVFIRST_DEVICE Shared<T> expand_weights(int chunk) const {
    return weights + chunk % 2 * (Shape::kExpand + Shape::kProject);
  }
  CONVFIRST_DEVICE Shared<T> project_weights(int chunk) const { return expand_weights(chunk) + Shape::kExpand; }

  // Rows of the expansion and columns of the projection of 32 hidden channels; zeros beyond the last ones.
  CONVFIRST_DEVICE void fetch(int chunk) const {
    const Global<const T> expand(layers.expand_weight), project(layers.project_weight);
    constexpr int kVectors = Shape::kChannels / 8, kHiddenVectors = kHiddenChunk / 8;
    for (int i = static_cast<int>(threadIdx.x); i < kHiddenChunk * kVectors; i += kThreads) {
      const int row = i / kVectors, channel = i % kVectors * 8, own = chunk * kHiddenChunk + row;
      const bool valid = own < layers.hidden && channel < layers.inputs;
      copy_async<16>(expand_weights(chunk) + row * Shape::kStride + channel,
                     expand + (valid ? static_cast<int64_t>(own) * layers.inputs + channel : 0), valid);
    }
    for (int i = static_cast<int>(threadIdx.x); i < Shape::kChannels * kHiddenVectors; i += kThreads) {
      const int row = i / kHiddenVectors, hidden = i % kHiddenVectors * 8, own = chunk * kHiddenChunk + hidden;
      const bool valid = row < layers.outputs && own < layers.hidden;
      copy_async<16>(project_weights(chunk) + row * Shape::kProjectStride + hidden,
                     project + (valid ? static_cast<int64_t>(row) * layers.hidden + own : 0), valid);
    }
  }

  // Sixteen hidden channels of every tile, as A operands of the projection.
  CONVFIRST_DEVICE void expand(int chunk, int part, const unsigned (&a)[kTiles][kBlocks][4],
                               unsigned (&hidden)[kTiles][4]) const {
    float d[2 * kTiles][4];
    CONVFIRST_UNROLL
    for (int j = 0; j < 2; ++j) {
      const int own = chunk * kHiddenChunk + part * 16 + j * 8 + 2 * (lane % 4);
      const float bias[2] = {bias_at(layers.expand_bias, own, layers.hidden),
                             bias_at(layers.expand_bias, own + 1, layers.hidden)};
      CONVFIRST_UNROLL
      for (int tile = 0; tile < kTiles; ++tile) {
        CONVFIRST_UNROLL
        for (int i = 0; i < 4; ++i) d[2 * tile + j][i] = bias[i % 2];
      }
    }
    // Matrices: hidden 0 to 7 of channels 0 to 7 and 8 to 15, then hidden 8 to 15.
    const Shared<T> rows =
        expand_weights(chunk) + (part * 16 + lane / 16 * 8 + lane % 8) * Shape::kStride + lane / 8 % 2 * 8;
    CONVFIRST_UNROLL
    for (int k = 0; k < kBlocks; ++k) {
      unsigned b[4];
      load_matrices<false>(b, rows + 16 * k);
      const unsigned first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
      CONVFIRST_UNROLL
      for (int tile = 0; tile < kTiles; ++tile) {
        multiply_16x8x16<T>(d[2 * tile], a[tile][k], first);
        multiply_16x8x16<T>(d[2 * tile + 1], a[tile][k], second);
      }
    }
    activate(d, layers.activation);
    CONVFIRST_UNROLL
    for (int i = 0; i < 2 * kTiles; ++i) {
      hidden[i / 2][i % 2 * 2] = pack_pair<T>(d[i][0], d[i][1]);
      hidden[i / 2][i % 2 * 2 + 1] = pack_pair<T>(d[i][2], d[i][3]);
    }
  }

  CONVFIRST_DEVICE void project(int chunk, int part, const unsigned (&hidden)[kTiles][4],
                                float (&sums)[kTiles][2 * kBlocks][4]) const {
    const Shared<T> rows =
        project_weights(chunk) + (lane / 16 * 8 + lane % 8) * Shape::kProjectStride + part * 16 + lane / 8 % 2 * 8;
    CONVFIRST_UNROLL
    for (int k = 0; k < kBlocks; ++k) {
      unsigned b[4];
      load_matrices<false>(b, rows + 16 * k * Shape::kProjectStride);
      const unsigned first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
      CONVFIRST_UNROLL
      for (int tile = 0; tile < kTiles; ++tile) {
        multiply_16x8x16<T>(sums[tile][2 * k], hidden[tile], first);
        multiply_16x8x16<T>(sums[tile][2 * k + 1], hidden[tile], second);
      }
    }
  }

  // Adds everything to the sums; the first chunk is on its way. Barriers also end all reads before it.
  CONVFIRST_DEVICE void run(const unsigned (&a)[kTiles][kBlocks][4], float (&sums)[kTiles][2 * kBlocks][4]) const {
    const int chunks = ceil_div(layers.hidden, kHiddenChunk);
    CONVFIRST_NO_UNROLL
    for (int chunk = 0; chunk < chunks; ++chunk) {
      wait_copies<0>();
      __syncthreads();  // the chunk has come, and the one before is no longer read
      if (chunk + 1 < chunks) fetch(chunk + 1);
      commit_copies();
      CONVFIRST_UNROLL
      for (int part = 0; part < kHiddenChunk / 16; ++part) {
        unsigned hidden[kTiles][4];
        expand(chunk, part, a, hidden);
        project(chunk, part, hidden, sums);
      }
    }
  }
};

}  // namespace convfirst::cuda
