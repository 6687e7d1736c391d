// The whole ConvFirst block in one kernel (Lavin, arXiv 2404.03617, section 5.5.1): grouped 3x3 convolution, expansion,
// activation, projection and residual. The hidden tensor stays in registers.
//
// Tile: 8 warps take 16 columns and 8 rows of an image (16 rows up to 64 channels), a warp one or two rows. The input
// with its halo lies in shared memory. A warp convolves all groups of its pixels; two groups' results are, as they
// leave the tensor cores, the A operand of the expansion. Then hidden channels come in chunks of 32: cp.async brings
// the next chunk's rows of both matrices while this one is used; a warp expands 16 hidden channels, activates them in
// registers, which again are an A operand, and adds their products to the output's sums. Results replace the input in
// shared memory, pixel by pixel, and leave as whole rows. Layout: NHWC, 16-byte aligned, C a multiple of 8 up to 128;
// sums are fp32.
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

#include "convfirst.h"
#include "device/async_copy.cuh"
#include "device/mma.cuh"

namespace convfirst::cuda {

constexpr int kBlockWarps = 8, kBlockThreads = kBlockWarps * kWarp;
constexpr int kBlockColumns = 16;  // pixels of a product
constexpr int kHiddenChunk = 32;
constexpr int kPad = 8;  // elements behind every row: ldmatrix meets all banks
constexpr int kTaps = 9, kGroup = 8, kHalo = 2;

// What one block needs for kBlocks x 16 channels (C rounded up).
template <int kBlocks>
struct ConvFirstShape {
  static constexpr int kChannels = 16 * kBlocks;
  static constexpr int kRowsOfWarp = kBlocks <= 4 ? 2 : 1;
  static constexpr int kRows = kBlockWarps * kRowsOfWarp;
  static constexpr int kStride = kChannels + kPad;  // of a pixel, and of a row of the expansion's weights
  static constexpr int kProjectStride = kHiddenChunk + kPad;
  // Elements of the parts of shared memory.
  static constexpr int kImage = (kRows + kHalo) * (kBlockColumns + kHalo) * kStride;
  static constexpr int kConvWeights = 2 * kBlocks * kTaps * 2 * kWarp;
  static constexpr int kExpand = kHiddenChunk * kStride, kProject = kChannels * kProjectStride;
  static constexpr int64_t kBytes = 2 * (kImage + kConvWeights + 2 * (kExpand + kProject));
};

template <class T, int kBlocks>
struct ConvFirstKernel {
  using Shape = ConvFirstShape<kBlocks>;
  const ConvFirstBlock& block;
  Shared<T> image, conv_weights, ffn_weights;
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

  // B fragments of the convolution, [group][tap][lane]: a lane's two elements are neighbours.
  CONVFIRST_DEVICE void stage_conv_weights() const {
    const Global<const T> weight(block.conv_weight);
    for (int i = static_cast<int>(threadIdx.x); i < block.c / kGroup * kTaps * kWarp; i += kBlockThreads) {
      const int of = i % kWarp, tap = i / kWarp % kTaps, output = i / (kWarp * kTaps) * kGroup + of / 4;
      const int64_t from = static_cast<int64_t>(output * kGroup + 2 * (of % 4)) * kTaps + tap;
      conv_weights.template store_vector<2>(2 * i, {{weight.load(from), weight.load(from + kTaps)}});
    }
  }

  CONVFIRST_DEVICE Shared<T> expand_weights(int chunk) const {
    return ffn_weights + chunk % 2 * (Shape::kExpand + Shape::kProject);
  }
  CONVFIRST_DEVICE Shared<T> project_weights(int chunk) const { return expand_weights(chunk) + Shape::kExpand; }

  // Rows of the expansion and columns of the projection of 32 hidden channels; zeros beyond C and the hidden channels.
  CONVFIRST_DEVICE void fetch_ffn_weights(int chunk) const {
    const Global<const T> expand(block.expand_weight), project(block.project_weight);
    constexpr int kVectors = Shape::kChannels / 8, kHiddenVectors = kHiddenChunk / 8;
    for (int i = static_cast<int>(threadIdx.x); i < kHiddenChunk * kVectors; i += kBlockThreads) {
      const int row = i / kVectors, channel = i % kVectors * 8, own = chunk * kHiddenChunk + row;
      const bool valid = own < block.hidden && channel < block.c;
      copy_async<16>(expand_weights(chunk) + row * Shape::kStride + channel,
                     expand + (valid ? static_cast<int64_t>(own) * block.c + channel : 0), valid);
    }
    for (int i = static_cast<int>(threadIdx.x); i < Shape::kChannels * kHiddenVectors; i += kBlockThreads) {
      const int row = i / kHiddenVectors, hidden = i % kHiddenVectors * 8, own = chunk * kHiddenChunk + hidden;
      const bool valid = row < block.c && own < block.hidden;
      copy_async<16>(project_weights(chunk) + row * Shape::kProjectStride + hidden,
                     project + (valid ? static_cast<int64_t>(row) * block.hidden + own : 0), valid);
    }
  }

  CONVFIRST_DEVICE static float bias_at(const Buffer& bias, int i, int count) {
    return bias.data && i < count ? Global<const float>(bias).load(i) : 0.0f;
  }

  // One group's convolution of one row of pixels.
  CONVFIRST_DEVICE void convolve(int row, int group, float (&d)[4]) const {
    const int channel = group * kGroup + 2 * (lane % 4);
    d[0] = d[2] = bias_at(block.conv_bias, channel, block.c);
    d[1] = d[3] = bias_at(block.conv_bias, channel + 1, block.c);
    const auto fragment = [&](int tap) {
      return bits_as<unsigned>(conv_weights.template load_vector<2>(2 * ((group * kTaps + tap) * kWarp + lane)));
    };
    CONVFIRST_UNROLL
    for (int i = 0; i + 1 < kTaps; i += 2) {
      const int tap = lane < kBlockColumns ? i : i + 1;
      unsigned a[4];
      load_matrices<false>(a, pixel(row + tap / 3, lane % kBlockColumns + tap % 3) + group * kGroup);
      const unsigned b[2] = {fragment(i), fragment(i + 1)};
      multiply_16x8x16<T>(d, a, b);
    }
    unsigned a[2];
    load_matrices<false>(a, pixel(row + 2, lane % kBlockColumns + 2) + group * kGroup);
    multiply_16x8x8<T>(d, a, fragment(kTaps - 1));
    CONVFIRST_UNROLL
    for (int i = 0; i < 4; ++i) d[i] = block.conv_relu ? relu(d[i]) : d[i];
  }

  // The convolution of a row as A operands of the expansion.
  CONVFIRST_DEVICE void convolve_row(int row, unsigned (&a)[kBlocks][4]) const {
    CONVFIRST_UNROLL
    for (int k = 0; k < kBlocks; ++k) {
      CONVFIRST_UNROLL
      for (int half = 0; half < 2; ++half) {
        float d[4] = {};
        if (2 * k + half < block.c / kGroup) convolve(row, 2 * k + half, d);
        a[k][2 * half] = pack_pair<T>(d[0], d[1]);
        a[k][2 * half + 1] = pack_pair<T>(d[2], d[3]);
      }
    }
  }

  // Sixteen hidden channels of every row of the warp, as A operands of the projection.
  CONVFIRST_DEVICE void expand(int chunk, int part, const unsigned (&a)[Shape::kRowsOfWarp][kBlocks][4],
                               unsigned (&hidden)[Shape::kRowsOfWarp][4]) const {
    float d[2 * Shape::kRowsOfWarp][4];
    CONVFIRST_UNROLL
    for (int j = 0; j < 2; ++j) {
      const int own = chunk * kHiddenChunk + part * 16 + j * 8 + 2 * (lane % 4);
      const float bias[2] = {bias_at(block.expand_bias, own, block.hidden),
                             bias_at(block.expand_bias, own + 1, block.hidden)};
      CONVFIRST_UNROLL
      for (int row = 0; row < Shape::kRowsOfWarp; ++row) {
        CONVFIRST_UNROLL
        for (int i = 0; i < 4; ++i) d[2 * row + j][i] = bias[i % 2];
      }
    }
    // Matrices: hidden 0 to 7 of channels 0 to 7 and 8 to 15, then hidden 8 to 15.
    const Shared<T> weights =
        expand_weights(chunk) + (part * 16 + lane / 16 * 8 + lane % 8) * Shape::kStride + lane / 8 % 2 * 8;
    CONVFIRST_UNROLL
    for (int k = 0; k < kBlocks; ++k) {
      unsigned b[4];
      load_matrices<false>(b, weights + 16 * k);
      const unsigned first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
      CONVFIRST_UNROLL
      for (int row = 0; row < Shape::kRowsOfWarp; ++row) {
        multiply_16x8x16<T>(d[2 * row], a[row][k], first);
        multiply_16x8x16<T>(d[2 * row + 1], a[row][k], second);
      }
    }
    activate(d, block.activation);
    CONVFIRST_UNROLL
    for (int i = 0; i < 2 * Shape::kRowsOfWarp; ++i) {
      hidden[i / 2][i % 2 * 2] = pack_pair<T>(d[i][0], d[i][1]);
      hidden[i / 2][i % 2 * 2 + 1] = pack_pair<T>(d[i][2], d[i][3]);
    }
  }

  CONVFIRST_DEVICE void project(int chunk, int part, const unsigned (&hidden)[Shape::kRowsOfWarp][4],
                                float (&sums)[Shape::kRowsOfWarp][2 * kBlocks][4]) const {
    const Shared<T> weights =
        project_weights(chunk) + (lane / 16 * 8 + lane % 8) * Shape::kProjectStride + part * 16 + lane / 8 % 2 * 8;
    CONVFIRST_UNROLL
    for (int k = 0; k < kBlocks; ++k) {
      unsigned b[4];
      load_matrices<false>(b, weights + 16 * k * Shape::kProjectStride);
      const unsigned first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
      CONVFIRST_UNROLL
      for (int row = 0; row < Shape::kRowsOfWarp; ++row) {
        multiply_16x8x16<T>(sums[row][2 * k], hidden[row], first);
        multiply_16x8x16<T>(sums[row][2 * k + 1], hidden[row], second);
      }
    }
  }

  // Bias and input are added, and the result takes the input's place.
  CONVFIRST_DEVICE void finish_row(int row, const float (&sums)[2 * kBlocks][4]) const {
    CONVFIRST_UNROLL
    for (int j = 0; j < 2 * kBlocks; ++j) {
      const int channel = 8 * j + 2 * (lane % 4);
      if (8 * j >= block.c) continue;
      const float bias[2] = {bias_at(block.project_bias, channel, block.c),
                             bias_at(block.project_bias, channel + 1, block.c)};
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
    const int y = row0 + row, vectors = block.c / 8;
    if (y >= block.h) return;
    const Global<T> output = Global<T>(block.output) + (base + static_cast<int64_t>(y) * block.w + column0) * block.c;
    const int columns = block.w - column0 < kBlockColumns ? block.w - column0 : kBlockColumns;
    for (int i = lane; i < columns * vectors; i += kWarp) {
      const int column = i / vectors, channel = i % vectors * 8;
      const auto values = (pixel(row + 1, column + 1) + channel).template load_vector<8>(0);
      output.template store_vector<8>(i * 8, values);
    }
  }

  CONVFIRST_DEVICE void run() const {
    fetch_image();
    commit_copies();
    fetch_ffn_weights(0);
    commit_copies();
    stage_conv_weights();
    wait_copies<1>();
    __syncthreads();  // image and convolution weights are there
    unsigned a[Shape::kRowsOfWarp][kBlocks][4];
    CONVFIRST_UNROLL
    for (int i = 0; i < Shape::kRowsOfWarp; ++i) convolve_row(warp * Shape::kRowsOfWarp + i, a[i]);
    float sums[Shape::kRowsOfWarp][2 * kBlocks][4] = {};
    const int chunks = ceil_div(block.hidden, kHiddenChunk);
    CONVFIRST_NO_UNROLL
    for (int chunk = 0; chunk < chunks; ++chunk) {
      wait_copies<0>();
      __syncthreads();  // the chunk has come, and the one before is no longer read; nor are halos
      if (chunk + 1 < chunks) fetch_ffn_weights(chunk + 1);
      commit_copies();
      CONVFIRST_UNROLL
      for (int part = 0; part < kHiddenChunk / 16; ++part) {
        unsigned hidden[Shape::kRowsOfWarp][4];
        expand(chunk, part, a, hidden);
        project(chunk, part, hidden, sums);
      }
    }
    CONVFIRST_UNROLL
    for (int i = 0; i < Shape::kRowsOfWarp; ++i) finish_row(warp * Shape::kRowsOfWarp + i, sums[i]);
    __syncwarp();
    for (int i = 0; i < Shape::kRowsOfWarp; ++i) store_row(warp * Shape::kRowsOfWarp + i);
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
  const ConvFirstKernel<T, kBlocks> kernel = {block,
                                              memory,
                                              memory + Shape::kImage,
                                              memory + Shape::kImage + Shape::kConvWeights,
                                              static_cast<int>(threadIdx.x) / kWarp,
                                              static_cast<int>(threadIdx.x) % kWarp,
                                              static_cast<int>(tile % rows) * Shape::kRows,
                                              static_cast<int>(blockIdx.x % columns) * kBlockColumns,
                                              static_cast<int64_t>(tile / rows) * block.h * block.w};
  kernel.run();
}

}  // namespace convfirst::cuda
