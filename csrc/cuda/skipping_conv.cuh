// Dense convolutions without the products of padded zeros (ConvV2) and transposed ones without those of inserted zeros
// (KS-deconv; C-K-S, arXiv 2306.15951), as implicit matrix products on tensor cores.
//
// Tile: a block of 4 warps takes one output position, 64 images and 64 output channels. All its outputs see the same
// kernel elements, so those that meet padding or lie between the rows of a strided image are left out for the whole
// block, and no product asks for bounds; all stride phases of a transposed convolution run in one launch. The sum runs
// over the kernel elements and 32 input channels at a time, three stages of cp.async deep; a warp takes 32 images and
// 32 outputs. Layout: NHWC and channels_last weights, 16-byte aligned, channels multiples of 8. Sums are fp32.
//
// Cost: 2 C K FLOPs an image, position and kernel element that meets the image. A warp reads 128 bytes of shared memory
// for 1024 products. Prediction for an H200: shared memory, 128 bytes a clock on 132 SMs at 1.7 GHz, feeds 460 TFLOP/s,
// about what mma.sync reaches, on the products that are left: 4/9 of them for a padded 3x3 at 2x2 pixels. It pays from
// 64 images on; with fewer, a block's rows stay empty.
#pragma once

#include "device/async_copy.cuh"
#include "device/mma.cuh"
#include "skipping_conv.h"

namespace convfirst::cuda {

constexpr int kSkipThreads = 128, kSkipImages = 64, kSkipOutputs = 64, kSkipDepth = 32, kSkipStages = 3;
constexpr int kSkipPad = 8;
constexpr int kDepthRow = kSkipDepth + kSkipPad, kOutputRow = kSkipOutputs + kSkipPad;  // elements
constexpr int kImageTile = kSkipImages * kDepthRow;
constexpr int kWeightTile = kSkipOutputs * kDepthRow;  // kSkipDepth * kOutputRow is less
constexpr int64_t kSkipBytes = 2 * kSkipStages * (kImageTile + kWeightTile);

// Where the sum stands: kernel element (r, s) that meets row y and column x, and a chunk of input channels.
struct SkippingPlace {
  const SkippingConv& conv;
  int p, q;
  int r = -1, s = 0, y = 0, x = 0, chunk = 0;

  // The input's row or column that element `tap` of the output at `at` meets, or -1.
  CONVFIRST_DEVICE int meet(int at, int tap, int stride, int dilation, int before, int size) const {
    if (!conv.transposed) {
      const int i = at * stride - before + tap * dilation;
      return i >= 0 && i < size ? i : -1;
    }
    const int i = at + before - tap * dilation;
    return i >= 0 && i % stride == 0 && i / stride < size ? i / stride : -1;
  }
  CONVFIRST_DEVICE bool done() const { return r >= conv.window.kernel_h; }

  CONVFIRST_DEVICE void next_row() {
    const Window& w = conv.window;
    do {
      ++r;
    } while (r < w.kernel_h && (y = meet(p, r, w.stride_h, w.dilation_h, w.top, conv.h)) < 0);
  }
  // The next element that meets the image; the first one from a fresh place.
  CONVFIRST_DEVICE void next_element() {
    const Window& w = conv.window;
    if (r < 0) {
      next_row();
      s = -1;
    }
    while (!done()) {
      while (++s < w.kernel_w) {
        x = meet(q, s, w.stride_w, w.dilation_w, w.left, conv.w);
        if (x >= 0) return;
      }
      next_row();
      s = -1;
    }
  }
  CONVFIRST_DEVICE void advance() {
    if (r >= 0 && ++chunk * kSkipDepth < conv.c) return;
    chunk = 0;
    next_element();
  }
};

template <class T>
struct SkippingTile {
  const SkippingConv& conv;
  Shared<T> memory;
  int image, output;  // the tile's first
  int64_t pixels;     // of an input image

  CONVFIRST_DEVICE Shared<T> images(int stage) const { return memory + stage * (kImageTile + kWeightTile); }
  CONVFIRST_DEVICE Shared<T> weights(int stage) const { return images(stage) + kImageTile; }

  CONVFIRST_DEVICE void fetch(int stage, const SkippingPlace& place) const {
    const Global<const T> input(conv.input), weight(conv.weight);
    const int64_t pixel = static_cast<int64_t>(place.y) * conv.w + place.x;
    const int first = place.chunk * kSkipDepth, taps = conv.window.taps();
    const int64_t tap = place.r * conv.window.kernel_w + place.s;
    constexpr int kVectors = kSkipDepth / 8, kOutputVectors = kSkipOutputs / 8;
    for (int i = static_cast<int>(threadIdx.x); i < kSkipImages * kVectors; i += kSkipThreads) {
      const int row = i / kVectors, channel = first + i % kVectors * 8;
      const bool valid = image + row < conv.n && channel < conv.c;
      copy_async<16>(images(stage) + row * kDepthRow + i % kVectors * 8,
                     input + (valid ? ((image + row) * pixels + pixel) * conv.c + channel : 0), valid);
    }
    for (int i = static_cast<int>(threadIdx.x); i < kSkipOutputs * kVectors; i += kSkipThreads) {
      const int row = conv.transposed ? i / kOutputVectors : i / kVectors;
      const int column = (conv.transposed ? i % kOutputVectors : i % kVectors) * 8;
      const int channel = first + (conv.transposed ? row : column), own = output + (conv.transposed ? column : row);
      const bool valid = channel < conv.c && own < conv.k;
      const int64_t from = conv.transposed ? (channel * int64_t{taps} + tap) * conv.k + own
                                           : (own * int64_t{taps} + tap) * conv.c + channel;
      copy_async<16>(weights(stage) + row * (conv.transposed ? kOutputRow : kDepthRow) + column,
                     weight + (valid ? from : 0), valid);
    }
  }

  // B fragments of 16 outputs from `column` on and 16 channels from `depth` on: outputs 0 to 7 in b[0..1].
  CONVFIRST_DEVICE void load_weights(int stage, int column, int depth, unsigned (&b)[4]) const {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    if (conv.transposed) {
      load_matrices<true>(b, weights(stage) + (depth + lane % 16) * kOutputRow + column + lane / 16 * 8);
    } else {
      load_matrices<false>(b,
                           weights(stage) + (column + lane / 16 * 8 + lane % 8) * kDepthRow + depth + lane / 8 % 2 * 8);
    }
  }

  // The warp's 32 images and 32 outputs.
  CONVFIRST_DEVICE void multiply(int stage, float (&sums)[2][4][4]) const {
    const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
    const int row = warp % 2 * 32, column = warp / 2 * 32;
    CONVFIRST_UNROLL
    for (int depth = 0; depth < kSkipDepth; depth += 16) {
      unsigned a[2][4], b[2][4];
      CONVFIRST_UNROLL
      for (int i = 0; i < 2; ++i) {
        load_matrices<false>(a[i], images(stage) + (row + 16 * i + lane % 16) * kDepthRow + depth + lane / 16 * 8);
        load_weights(stage, column + 16 * i, depth, b[i]);
      }
      CONVFIRST_UNROLL
      for (int i = 0; i < 2; ++i) {
        CONVFIRST_UNROLL
        for (int j = 0; j < 4; ++j) {
          const unsigned pair[2] = {b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]};
          multiply_16x8x16<T>(sums[i][j], a[i], pair);
        }
      }
    }
  }

  // Results go through shared memory, so that an image's 64 outputs are written as 128 bytes.
  CONVFIRST_DEVICE void store(int64_t position, const float (&sums)[2][4][4]) const {
    const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
    __syncthreads();  // the last stage is no longer read
    CONVFIRST_UNROLL
    for (int j = 0; j < 4; ++j) {
      const int column = warp / 2 * 32 + 8 * j + 2 * (lane % 4), own = output + column;
      float bias[2] = {};
      if (conv.bias.data && own < conv.k) {
        const auto pair = Global<const T>(conv.bias).template load_vector<2>(own);
        bias[0] = to_float(pair[0]), bias[1] = to_float(pair[1]);
      }
      CONVFIRST_UNROLL
      for (int i = 0; i < 4; ++i) {
        const float* pair = &sums[i / 2][j][i % 2 * 2];
        const int row = warp % 2 * 32 + i / 2 * 16 + i % 2 * 8 + lane / 4;
        memory.template store_vector<2>(row * kOutputRow + column, narrow<T>({pair[0] + bias[0], pair[1] + bias[1]}));
      }
    }
    __syncthreads();  // all results are there
    const Global<T> to(conv.output);
    const int64_t positions = static_cast<int64_t>(conv.p) * conv.q;
    for (int i = static_cast<int>(threadIdx.x); i < kSkipImages * (kSkipOutputs / 8); i += kSkipThreads) {
      const int row = i / (kSkipOutputs / 8), column = i % (kSkipOutputs / 8) * 8;
      if (image + row >= conv.n || output + column >= conv.k) continue;
      const auto values = (memory + row * kOutputRow + column).template load_vector<8>(0);
      to.template store_vector<8>(((image + row) * positions + position) * conv.k + output + column, values);
    }
  }
};

template <class T>
__global__ void __launch_bounds__(kSkipThreads, 4) skipping_kernel(const CONVFIRST_GRID_CONSTANT SkippingConv conv) {
  const unsigned output_tiles = static_cast<unsigned>(ceil_div(conv.k, kSkipOutputs));
  const unsigned image_tiles = static_cast<unsigned>(ceil_div(conv.n, kSkipImages));
  const unsigned tile = blockIdx.x % (output_tiles * image_tiles), position = blockIdx.x / (output_tiles * image_tiles);
  const SkippingTile<T> part = {conv, shared_memory<T>(), static_cast<int>(tile / output_tiles) * kSkipImages,
                                static_cast<int>(tile % output_tiles) * kSkipOutputs,
                                static_cast<int64_t>(conv.h) * conv.w};
  SkippingPlace place = {conv, static_cast<int>(position) / conv.q, static_cast<int>(position) % conv.q};
  place.advance();
  int steps = 0, stage = 0;  // fetched ahead of the products; the stage that comes next
  for (; steps < kSkipStages - 1; ++steps) {
    if (place.done()) break;
    part.fetch(steps, place);
    commit_copies();
    place.advance();
  }
  float sums[2][4][4] = {};
  while (steps > 0) {
    // Behind the stage that is needed at most one has been fetched.
    if (steps == kSkipStages - 1) wait_copies<kSkipStages - 2>();
    if (steps < kSkipStages - 1) wait_copies<0>();
    __syncthreads();  // the stage has come, and the one before is no longer read
    --steps;
    if (!place.done()) {
      part.fetch((stage + kSkipStages - 1) % kSkipStages, place);
      commit_copies();
      place.advance();
      ++steps;
    }
    part.multiply(stage, sums);
    stage = (stage + 1) % kSkipStages;
  }
  part.store(position, sums);
}

}  // namespace convfirst::cuda
