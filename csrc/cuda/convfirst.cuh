// The whole ConvFirst block of stride 1 in one kernel (Lavin, arXiv 2404.03617, section 5.5.1): grouped 3x3
// convolution, expansion, activation, projection and residual. The hidden tensor stays in registers.
//
// Tile: 8 warps take 16 columns and 8 rows of an image (16 rows up to 64 channels), a warp one or two rows. The input
// with its halo lies in shared memory. A warp convolves all groups of its pixels; two groups' results are, as they
// leave the tensor cores, the A operand of the expansion (feed_forward.cuh). Results replace the input in shared
// memory, pixel by pixel, and leave as whole rows. Layout: NHWC, 16-byte aligned, inputs and outputs multiples of 8
// channels up to 128; sums are fp32.
//
// Cost: of a pixel 4 C bytes of DRAM traffic and 144 C + 4 C E FLOPs. A 16 x 8 x 16 product needs 256 bytes of weights
// from shared memory, up to 64 channels once for two of them. Prediction for an H200 (copy 4.3 TB/s; tensor cores
// 790 TFLOP/s, of which mma.sync reaches about 60%; 132 SMs at 1.7 GHz that read 128 bytes of shared memory a clock):
// products at 470 TFLOP/s up to 64 channels and, bound by shared memory, at 460 above. For N = 128:
//
//   32 channels, E =  96, 128 x 128: 62 us of DRAM traffic, 75 us of products
//   64 channels, E = 384,  64 x  64: 31 us, 119 us
//   96 channels, E = 576,  32 x  32: 12 us, 67 us
#pragma once

#include "convfirst_tile.cuh"

namespace convfirst::cuda {

constexpr int kHalo = 2;

// What one block needs for kBlocks x 16 channels (the larger of inputs and outputs, rounded up).
template <int kBlocks>
struct ConvFirstShape {
  static constexpr int kRowsOfWarp = kBlocks <= 4 ? 2 : 1;
  static constexpr int kRows = kBlockWarps * kRowsOfWarp;
  static constexpr int kStride = 16 * kBlocks + kPad;  // of a pixel
  // Elements of the parts of shared memory.
  static constexpr int kImage = (kRows + kHalo) * (kBlockColumns + kHalo) * kStride;
  static constexpr int kConvWeights = 2 * kBlocks * kTaps * 2 * kWarp;
  static constexpr int64_t kBytes = 2 * (kImage + kConvWeights + FeedForwardShape<kBlocks>::kElements);
};

template <class T, int kBlocks>
struct ConvFirstKernel {
  using Shape = ConvFirstShape<kBlocks>;
  static constexpr int kTiles = Shape::kRowsOfWarp;
  const ConvFirstBlock& block;
  Shared<T> image, conv_weights;
  FeedForward<T, kBlocks, kTiles, kBlockThreads> ffn;
  int warp, lane, row0, column0;  // of the tile's first pixel
  int64_t base;                   // pixels before this image

  CONVFIRST_DEVICE Shared<T> pixel(int row, int column) const {
    return image + (row * (kBlockColumns + kHalo) + column) * Shape::kStride;
  }

  // The input with one pixel more on every side.
  CONVFIRST_DEVICE void fetch_image() const {
    const Global<const T> input(block.input);
    const int vectors = block.c / 8, pixels = (Shape::kRows + kHalo) * (kBlockColumns + kHalo);
    for (int i = static_cast<int>(threadIdx.x); i < pixels * vectors; i += kBlockThreads) {
      const int at = i / vectors, channel = i % vectors * 8;
      const int row = at / (kBlockColumns + kHalo), column = at % (kBlockColumns + kHalo);
      const int y = row0 + row - 1, x = column0 + column - 1;
      const bool valid = y >= 0 && y < block.h && x >= 0 && x < block.w;
      const int64_t from = valid ? (base + static_cast<int64_t>(y) * block.w + x) * block.c + channel : 0;
      copy_async<16>(pixel(row, column) + channel, input + from, valid);
    }
  }

  // The convolution of a row as A operands of the expansion.
  CONVFIRST_DEVICE void convolve_row(int row, unsigned (&a)[kBlocks][4]) const {
    CONVFIRST_UNROLL
    for (int k = 0; k < kBlocks; ++k) {
      CONVFIRST_UNROLL
      for (int half = 0; half < 2; ++half) {
        const int group = 2 * k + half;
        const auto at = [&](int tap) { return pixel(row + tap / 3, lane % kBlockColumns + tap % 3) + group * kGroup; };
        float d[4] = {};
        if (group < block.c / kGroup) convolve_group(block, conv_weights, group, lane, at, d);
        a[k][2 * half] = pack_pair<T>(d[0], d[1]);
        a[k][2 * half + 1] = pack_pair<T>(d[2], d[3]);
      }
    }
  }

  // Bias and input are added, and the result takes the input's place.
  CONVFIRST_DEVICE void finish_row(int row, const float (&sums)[2 * kBlocks][4]) const {
    CONVFIRST_UNROLL
    for (int j = 0; j < 2 * kBlocks; ++j) {
      const int channel = 8 * j + 2 * (lane % 4), outputs = block.ffn.outputs;
      if (8 * j >= outputs) continue;
      const float bias[2] = {bias_at(block.ffn.project_bias, channel, outputs),
                             bias_at(block.ffn.project_bias, channel + 1, outputs)};
      CONVFIRST_UNROLL
      for (int half = 0; half < 2; ++half) {
        const Shared<T> at = pixel(row + 1, lane / 4 + 8 * half + 1) + channel;
        float x[2] = {sums[j][2 * half] + bias[0], sums[j][2 * half + 1] + bias[1]};
        if (block.residual) {
          const auto input = at.template load_vector<2>(0);
          x[0] += to_float(input[0]), x[1] += to_float(input[1]);
        }
        at.template store_vector<2>(0, narrow<T>(x));
      }
    }
  }

  CONVFIRST_DEVICE void store_row(int row) const {
    const int y = row0 + row;
    if (y >= block.h) return;
    const int64_t at = (base + static_cast<int64_t>(y) * block.w + column0) * block.ffn.outputs;
    const int columns = block.w - column0 < kBlockColumns ? block.w - column0 : kBlockColumns;
    store_pixels(pixel(row + 1, 1), Shape::kStride, Global<T>(block.output) + at, columns, block.ffn.outputs, lane);
  }

  CONVFIRST_DEVICE void run() const {
    fetch_image();
    commit_copies();
    ffn.fetch(0);
    commit_copies();
    stage_conv_weights(conv_weights, block);
    wait_copies<1>();
    __syncthreads();  // image and convolution weights are there
    unsigned a[kTiles][kBlocks][4];
    CONVFIRST_UNROLL
    for (int i = 0; i < kTiles; ++i) convolve_row(warp * kTiles + i, a[i]);
    float sums[kTiles][2 * kBlocks][4] = {};
    ffn.run(a, sums);  // its barrier comes after the last read of halos
    CONVFIRST_UNROLL
    for (int i = 0; i < kTiles; ++i) finish_row(warp * kTiles + i, sums[i]);
    __syncwarp();
    for (int i = 0; i < kTiles; ++i) store_row(warp * kTiles + i);
    wait_copies<0>();
  }
};

template <class T, int kBlocks>
__global__ void __launch_bounds__(kBlockThreads, kBlocks <= 2 ? 2 : 1)
    convfirst_kernel(const CONVFIRST_GRID_CONSTANT ConvFirstBlock block) {
  using Shape = ConvFirstShape<kBlocks>;
  const unsigned columns = (block.w + kBlockColumns - 1) / kBlockColumns;
  const unsigned rows = (block.h + Shape::kRows - 1) / Shape::kRows, tile = blockIdx.x / columns;
  const Shared<T> memory = shared_memory<T>();
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const ConvFirstKernel<T, kBlocks> kernel = {block,
                                              memory,
                                              memory + Shape::kImage,
                                              {block.ffn, memory + Shape::kImage + Shape::kConvWeights, lane},
                                              static_cast<int>(threadIdx.x) / kWarp,
                                              lane,
                                              static_cast<int>(tile % rows) * Shape::kRows,
                                              static_cast<int>(blockIdx.x % columns) * kBlockColumns,
                                              static_cast<int64_t>(tile / rows) * block.h * block.w};
  kernel.run();
}

}  // namespace convfirst::cuda
