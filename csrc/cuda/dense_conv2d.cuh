// The stem: a dense 3x3 convolution of 3 channels with stride 2, bias and activation.
//
// Tile: a block of 256 threads takes 8 rows and 16 columns of outputs; the pixels that they see and the weights lie in
// shared memory in fp32. A thread takes 4 outputs side by side and 16 bytes of channels: 81 values and 27 vectors of
// weights for 108 vector products. Layout: NHWC, outputs 16-byte aligned; sums are fp32.
//
// Cost: 54 FLOPs an output; input and output once from DRAM. Prediction for an H200 (copy at 4.3 TB/s, fp32 at 60
// TFLOP/s) for 224 x 224 to 32 channels, N = 128, fp16: 141 MB, 33 us; 2.8 GFLOP, 46 us; with its loads, 4 instructions
// a clock and 132 SMs at 1.7 GHz, about 65 us. So bound by instructions, half of the roofline.
#pragma once

#include "dense_conv2d.h"
#include "row_ring.cuh"

namespace convfirst::cuda {

constexpr int kStemThreads = 256, kStemRows = 8, kStemColumns = 16, kStemCell = 4;
constexpr int kStemInputs = 3, kStemKernel = 3, kStemStride = 2;
constexpr int kStemProducts = kStemInputs * kStemKernel * kStemKernel;
constexpr int kSeenRows = (kStemRows - 1) * kStemStride + kStemKernel;
constexpr int kSeenColumns = (kStemColumns - 1) * kStemStride + kStemKernel;
constexpr int kSeenRow = kSeenColumns * kStemInputs;  // values of a row of pixels, which are neighbours in memory

// Rows and columns of tiles, which the host counts.
struct StemTask {
  Convolution conv;
  int tile_rows, tile_columns;
};

template <class T>
struct StemTile {
  static constexpr int kV = kVector<T>, kSpan = (kStemCell - 1) * kStemStride + kStemKernel;
  const Convolution& conv;
  Shared<float> pixels, weights;  // [row][column][input], [row][column][input][output]
  int row, column;                // of the first output
  int64_t image;

  CONVFIRST_DEVICE void stage() const {
    const Global<const T> input(conv.input);
    const int y0 = row * kStemStride - conv.window.top, x0 = column * kStemStride - conv.window.left;
    for (int i = static_cast<int>(threadIdx.x); i < kSeenRows * kSeenRow; i += kStemThreads) {
      const int y = y0 + i / kSeenRow, x = x0 + i % kSeenRow / kStemInputs;
      const bool inside = y >= 0 && y < conv.h && x >= 0 && x < conv.w;
      const int64_t from = ((image * conv.h + y) * conv.w + x) * kStemInputs + i % kStemInputs;
      pixels.store(i, inside ? to_float(input.load(from)) : 0.0f);
    }
    for (int i = static_cast<int>(threadIdx.x); i < kStemProducts * conv.k; i += kStemThreads) {
      const int output = i % conv.k, product = i / conv.k;
      weights.store(i, to_float(load_weight<T>(conv.weights, output, product % kStemInputs, product / kStemInputs)));
    }
  }

  // Four outputs from `cell` on, of the channels from `channel` on.
  CONVFIRST_DEVICE void sum(int cell_row, int cell_column, int channel, float (&sums)[kStemCell][kV]) const {
    CONVFIRST_NO_UNROLL
    for (int r = 0; r < kStemKernel; ++r) {
      const int from = (cell_row * kStemStride + r) * kSeenRow + cell_column * kStemStride * kStemInputs;
      CONVFIRST_UNROLL
      for (int c = 0; c < kStemInputs; ++c) {
        float seen[kSpan];
        CONVFIRST_UNROLL
        for (int x = 0; x < kSpan; ++x) seen[x] = pixels.load(from + x * kStemInputs + c);
        CONVFIRST_UNROLL
        for (int s = 0; s < kStemKernel; ++s) {
          const int at = ((r * kStemKernel + s) * kStemInputs + c) * conv.k + channel;
          CONVFIRST_UNROLL
          for (int half = 0; half < kV; half += 4) {
            const auto w = weights.template load_vector<4>(at + half);
            CONVFIRST_UNROLL
            for (int i = 0; i < 4 * kStemCell; ++i) {
              sums[i / 4][half + i % 4] += seen[i / 4 * kStemStride + s] * w[i % 4];
            }
          }
        }
      }
    }
  }

  CONVFIRST_DEVICE void store(int cell_row, int cell_column, int channel, float (&sums)[kStemCell][kV]) const {
    const int p = row + cell_row;
    if (conv.bias.data) {
      CONVFIRST_UNROLL
      for (int i = 0; i < kV; ++i) {
        const float bias = load_bias<T>(conv.bias, conv.weights, channel + i);
        CONVFIRST_UNROLL
        for (int q = 0; q < kStemCell; ++q) sums[q][i] += bias;
      }
    }
    activate(sums, conv.activation);
    CONVFIRST_UNROLL
    for (int i = 0; i < kStemCell; ++i) {
      const int q = column + cell_column + i;
      if (p >= conv.p || q >= conv.q) continue;
      const int64_t at = ((image * conv.p + p) * conv.q + q) * conv.k + channel;
      if (conv.residual.data) {
        const auto residual = Global<const T>(conv.residual).template load_vector<kV>(at);
        CONVFIRST_UNROLL
        for (int k = 0; k < kV; ++k) sums[i][k] += to_float(residual[k]);
      }
      Global<T>(conv.output).template store_vector<kV>(at, narrow<T>(sums[i]));
    }
  }
};

template <class T>
__global__ void __launch_bounds__(kStemThreads, 2) stem_kernel(const CONVFIRST_GRID_CONSTANT StemTask task) {
  const Convolution& conv = task.conv;
  const unsigned tile_columns = static_cast<unsigned>(task.tile_columns),
                 tile_rows = static_cast<unsigned>(task.tile_rows);
  const unsigned of_image = blockIdx.x / tile_columns;
  const Shared<float> weights = shared_memory<float>();
  const StemTile<T> tile = {conv,
                            weights + kStemProducts * conv.k,
                            weights,
                            static_cast<int>(of_image % tile_rows) * kStemRows,
                            static_cast<int>(blockIdx.x % tile_columns) * kStemColumns,
                            of_image / tile_rows};
  tile.stage();
  __syncthreads();
  const int vectors = conv.k / kVector<T>, cells = kStemRows * kStemColumns / kStemCell;
  for (int i = static_cast<int>(threadIdx.x); i < cells * vectors; i += kStemThreads) {
    const int channel = i % vectors * kVector<T>, cell = i / vectors;
    const int cell_row = cell / (kStemColumns / kStemCell), cell_column = cell % (kStemColumns / kStemCell) * kStemCell;
    float sums[kStemCell][kVector<T>] = {};
    tile.sum(cell_row, cell_column, channel, sums);
    tile.store(cell_row, cell_column, channel, sums);
  }
}

}  // namespace convfirst::cuda
