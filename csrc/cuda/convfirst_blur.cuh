// The whole ConvFirst block of stride 2 in one kernel (Lavin, arXiv 2404.03617, section 5.3, figure 6(c)): grouped 3x3
// convolution, BlurPool of its result and of the input, side by side, then expansion, activation and projection.
//
// Tile: 8 warps take 8 rows and 16 columns of outputs, a warp one row. Blurring reads 17 x 33 pixels of the convolution
// and so 19 x 35 of the input, which come 16 channels at a time by cp.async. All warps convolve these two groups into
// shared memory, rounded as a layer's output would be, and blur the input, a thread 8 channels of an output; then the
// next channels are on their way while the convolution is blurred. Edges are reflected by the index that is read. The
// blurred pixels are the A operand of the expansion (feed_forward.cuh), and results leave from their place. Layout:
// NHWC, 16-byte aligned; inputs a multiple of 8 channels up to 64, outputs up to 128; sums are fp32.
//
// Cost: of an output 8 C bytes read, 2 K written, and 4 * 144 C + 72 C + 4 C E + 2 E K FLOPs. Prediction for an H200
// (copy 4.3 TB/s; mma.sync at 470 TFLOP/s; 132 SMs at 1.7 GHz, 4 instructions a clock) for 64 channels at 64 x 64 to
// 96, E = 384, N = 128: 92 MB, 21 us; 23 GFLOP of products, 48 us; convolution and blurring, 700 instructions a warp
// and 16 channels, 26 us. With little overlap 75 us, 45% of the tensor cores' rate.
#pragma once

#include "convfirst_tile.cuh"

namespace convfirst::cuda {

// What one block needs for kBlocks x 16 channels (the larger of twice the inputs and the outputs, rounded up).
template <int kBlocks>
struct ConvFirstBlurShape {
  static constexpr int kRows = kBlockWarps;
  static constexpr int kSlice = 16, kSliceStride = kSlice + kPad;  // channels of a step, elements of its pixels
  static constexpr int kBlurRows = 2 * kRows + 1, kBlurColumns = 2 * kBlockColumns + 1;  // seen by blurring
  static constexpr int kSeenRows = kBlurRows + 2, kSeenColumns = kBlurColumns + 2;       // seen by the convolution
  static constexpr int kStride = 16 * kBlocks + kPad;  // of a pixel of the expansion's input
  // Elements of the parts of shared memory; the feed-forward network's weights take the place of what is seen.
  static constexpr int kBlurred = kRows * kBlockColumns * kStride;
  static constexpr int kConvWeights = kBlocks * kTaps * 2 * kWarp;
  static constexpr int kSeen = kSeenRows * kSeenColumns * kSliceStride;
  static constexpr int kConvolved = kBlurRows * kBlurColumns * kSliceStride;
  static constexpr int kShared = kSeen + kConvolved > FeedForwardShape<kBlocks>::kElements
                                     ? kSeen + kConvolved
                                     : FeedForwardShape<kBlocks>::kElements;
  static constexpr int64_t kBytes = 2 * (kBlurred + kConvWeights + kShared);
};

template <class T, int kBlocks>
struct ConvFirstBlurKernel {
  using Shape = ConvFirstBlurShape<kBlocks>;
  const ConvFirstBlock& block;
  Shared<T> blurred, conv_weights, seen, convolved;
  FeedForward<T, kBlocks, 1, kBlockThreads> ffn;
  int warp, lane, row0, column0;  // of the tile's first output
  int64_t image;

  // Channels [slice * 16, + 16) of the input, of pixels (2 row0 - 2, 2 column0 - 2) and on; zeros outside of it.
  CONVFIRST_DEVICE void fetch_slice(int slice) const {
    const Global<const T> input(block.input);
    constexpr int kVectors = Shape::kSlice / 8;
    for (int i = static_cast<int>(threadIdx.x); i < Shape::kSeenRows * Shape::kSeenColumns * kVectors;
         i += kBlockThreads) {
      const int at = i / kVectors, own = i % kVectors * 8, channel = slice * Shape::kSlice + own;
      const int y = 2 * row0 - 2 + at / Shape::kSeenColumns, x = 2 * column0 - 2 + at % Shape::kSeenColumns;
      const bool valid = y >= 0 && y < block.h && x >= 0 && x < block.w && channel < block.c;
      const int64_t from = ((image * block.h + y) * block.w + x) * block.c + channel;
      copy_async<16>(seen + at * Shape::kSliceStride + own, input + (valid ? from : 0), valid);
    }
  }

  // The slice's groups of all pixels that blurring reads, 16 at a time.
  CONVFIRST_DEVICE void convolve_slice(int slice) const {
    constexpr int kPixels = Shape::kBlurRows * Shape::kBlurColumns, kTilesOfSlice = ceil_div(kPixels, 16);
    for (int unit = warp; unit < 2 * kTilesOfSlice; unit += kBlockWarps) {
      const int half = unit % 2, group = 2 * slice + half, first = unit / 2 * 16;
      if (group >= block.c / kGroup) continue;
      const int own = first + lane % 16 < kPixels ? first + lane % 16 : kPixels - 1;
      const Shared<T> corner =
          seen + (own / Shape::kBlurColumns * Shape::kSeenColumns + own % Shape::kBlurColumns) * Shape::kSliceStride +
          half * kGroup;
      const auto at = [&](int tap) { return corner + (tap / 3 * Shape::kSeenColumns + tap % 3) * Shape::kSliceStride; };
      float d[4];
      convolve_group(block, conv_weights, group, lane, at, d);
      CONVFIRST_UNROLL
      for (int i = 0; i < 2; ++i) {
        const int pixel = first + lane / 4 + 8 * i;
        if (pixel >= kPixels) continue;
        const Shared<T> to = convolved + pixel * Shape::kSliceStride + half * kGroup + 2 * (lane % 4);
        to.template store_vector<2>(0, narrow<T>({d[2 * i], d[2 * i + 1]}));
      }
    }
  }

  // The pixel that an index beyond an edge is reflected to; far ones, whose results nobody keeps, to the last.
  CONVFIRST_DEVICE static int reflected(int i, int size) {
    const int inside = i < 0 ? -i : i >= size ? 2 * size - 2 - i : i;
    return inside < 0 ? 0 : inside;
  }

  // Blurs 8 channels of an output from pixels with corner (2 row0 - 1, 2 column0 - 1), `columns` a row.
  CONVFIRST_DEVICE void blur(Shared<T> from, int columns, int channel, Shared<T> to) const {
    const int own = static_cast<int>(threadIdx.x) / 2, row = own / kBlockColumns, column = own % kBlockColumns;
    const int y0 = 2 * row0 - 1, x0 = 2 * column0 - 1;
    float sums[8] = {};
    CONVFIRST_UNROLL
    for (int i = 0; i < 9; ++i) {
      const int y = clamped(reflected(y0 + 2 * row + i / 3, block.h) - y0, Shape::kBlurRows);
      const int x = clamped(reflected(x0 + 2 * column + i % 3, block.w) - x0, Shape::kBlurColumns);
      const auto values = (from + (y * columns + x) * Shape::kSliceStride + channel).template load_vector<8>(0);
      const float factor = (i / 3 == 1 ? 0.5f : 0.25f) * (i % 3 == 1 ? 0.5f : 0.25f);
      CONVFIRST_UNROLL
      for (int k = 0; k < 8; ++k) sums[k] += factor * to_float(values[k]);
    }
    (to + own * Shape::kStride).template store_vector<8>(0, narrow<T>(sums));
  }
  CONVFIRST_DEVICE static int clamped(int i, int size) { return i < 0 ? 0 : i < size ? i : size - 1; }

  // The input's channels and the convolution's, side by side, of all outputs of the tile.
  CONVFIRST_DEVICE void blur_all() const {
    const int slices = ceil_div(block.c, Shape::kSlice), own = static_cast<int>(threadIdx.x) % 2 * 8;
    fetch_slice(0);
    commit_copies();
    CONVFIRST_NO_UNROLL
    for (int slice = 0; slice < slices; ++slice) {
      const int channel = slice * Shape::kSlice + own;
      wait_copies<0>();
      __syncthreads();  // the slice has come, and nobody reads the convolution of the one before
      convolve_slice(slice);
      const Shared<T> inside = seen + (Shape::kSeenColumns + 1) * Shape::kSliceStride;
      if (channel < block.c) blur(inside, Shape::kSeenColumns, own, blurred + channel);
      __syncthreads();  // the convolution is there, and nobody reads the input
      if (slice + 1 < slices) {
        fetch_slice(slice + 1);
        commit_copies();
      }
      if (channel < block.c) blur(convolved, Shape::kBlurColumns, own, blurred + block.c + channel);
    }
  }

  CONVFIRST_DEVICE void clear_padding() const {
    const int filled = 2 * block.c / 8, vectors = 2 * kBlocks - filled;
    for (int i = static_cast<int>(threadIdx.x); i < Shape::kRows * kBlockColumns * vectors; i += kBlockThreads) {
      const Vector<T, 8> zeros = {};
      (blurred + i / vectors * Shape::kStride + (filled + i % vectors) * 8).template store_vector<8>(0, zeros);
    }
  }

  CONVFIRST_DEVICE Shared<T> pixel(int column) const {
    return blurred + (warp * kBlockColumns + column) * Shape::kStride;
  }

  CONVFIRST_DEVICE void store(const float (&sums)[2 * kBlocks][4]) const {
    const int outputs = block.ffn.outputs, out_w = block.out_w(), p = row0 + warp;
    CONVFIRST_UNROLL
    for (int j = 0; j < 2 * kBlocks; ++j) {
      const int channel = 8 * j + 2 * (lane % 4);
      if (8 * j >= outputs) continue;
      const float bias[2] = {bias_at(block.ffn.project_bias, channel, outputs),
                             bias_at(block.ffn.project_bias, channel + 1, outputs)};
      CONVFIRST_UNROLL
      for (int half = 0; half < 2; ++half) {
        const float x[2] = {sums[j][2 * half] + bias[0], sums[j][2 * half + 1] + bias[1]};
        (pixel(lane / 4 + 8 * half) + channel).template store_vector<2>(0, narrow<T>(x));
      }
    }
    __syncwarp();
    if (p >= block.out_h()) return;
    const int64_t at = ((image * block.out_h() + p) * out_w + column0) * outputs;
    const int columns = out_w - column0 < kBlockColumns ? out_w - column0 : kBlockColumns;
    store_pixels(pixel(0), Shape::kStride, Global<T>(block.output) + at, columns, outputs, lane);
  }

  CONVFIRST_DEVICE void run() const {
    stage_conv_weights(conv_weights, block);
    clear_padding();
    blur_all();
    __syncthreads();  // every blurred pixel is there, and nobody reads what the weights are to replace
    ffn.fetch(0);
    commit_copies();
    unsigned a[1][kBlocks][4];
    CONVFIRST_UNROLL
    for (int k = 0; k < kBlocks; ++k) load_matrices<false>(a[0][k], pixel(lane % 16) + 16 * k + lane / 16 * 8);
    float sums[1][2 * kBlocks][4] = {};
    ffn.run(a, sums);
    store(sums[0]);
    wait_copies<0>();
  }
};

template <class T, int kBlocks>
__global__ void __launch_bounds__(kBlockThreads, kBlocks <= 4 ? 2 : 1)
    convfirst_blur_kernel(const CONVFIRST_GRID_CONSTANT ConvFirstBlock block) {
  using Shape = ConvFirstBlurShape<kBlocks>;
  const unsigned columns = (block.out_w() + kBlockColumns - 1) / kBlockColumns;
  const unsigned rows = (block.out_h() + Shape::kRows - 1) / Shape::kRows, tile = blockIdx.x / columns;
  const Shared<T> memory = shared_memory<T>(), seen = memory + Shape::kBlurred + Shape::kConvWeights;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const ConvFirstBlurKernel<T, kBlocks> kernel = {block,
                                                  memory,
                                                  memory + Shape::kBlurred,
                                                  seen,
                                                  seen + Shape::kSeen,
                                                  {block.ffn, seen, lane},
                                                  static_cast<int>(threadIdx.x) / kWarp,
                                                  lane,
                                                  static_cast<int>(tile % rows) * Shape::kRows,
                                                  static_cast<int>(blockIdx.x % columns) * kBlockColumns,
                                                  tile / rows};
  kernel.run();
}

}  // namespace convfirst::cuda
