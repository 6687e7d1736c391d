// First pass of an inverted residual in passes: expansion, convolution and, where asked for, BlurPool of 64 hidden
// channels, and their sums over pixels for squeeze-excite (Lavin, arXiv 2404.03617, section 5.4). Of the hidden
// tensor only what the projection reads goes to memory, a part of the batch at a time that stays in the L2 cache.
//
// Tile: 8 warps take up to 256 pixels of the input, whole images or a tile with its halo; the plan chooses. They expand
// 64 channels of them: A and B come 32 input channels at a time, two stages of cp.async deep, a warp takes 32 pixels.
// Without expansion the pixels are copied as they are. What lies outside of the image is one row of zeros. Depthwise: a
// thread takes 8 channels of 2 or 4 outputs side by side. Group width 8: a warp takes a group, 16 pixels and two taps a
// product; results go through shared memory, where they are blurred with edges reflected. Sums are added up by thread,
// warp and block in a fixed order. Layout: NHWC, 16-byte aligned, channels multiples of 8; sums are fp32.
//
// Cost: of an expanded pixel 2 C E FLOPs, of an output 2 K^2 E or 16 K^2 E; the input E / 64 times from L2, once from
// DRAM; 2 E bytes written to L2 an output. Prediction for an H200 (mma.sync at 470 TFLOP/s; 132 SMs at 1.7 GHz, 4
// instructions a clock; L2 at 5.5 TB/s) for C = 192, E = 768, 14 x 14, group width 8, N = 128: 7.4 GFLOP of the
// expansion, 8.5 in whole warps of pixels, 18 us; convolution, 13 tiles of 120 instructions a warp, and storing, 5 us;
// 115 MB of input from L2, 21 us, beside the products; 39 MB written. About 30 us.
#pragma once

#include "device/async_copy.cuh"
#include "device/mma.cuh"
#include "device/warp.cuh"
#include "mbconv_passes.h"

namespace convfirst::cuda {

constexpr int kHiddenWarps = 8, kHiddenThreads = kHiddenWarps * kWarp;
constexpr int kHiddenSlice = 64, kHiddenRow = kHiddenSlice + 8;  // channels of a block; elements of a pixel's
constexpr int kHiddenPixels = 256, kPixelsOfWarp = kHiddenPixels / kHiddenWarps;
constexpr int kDepth = 32, kDepthStride = kDepth + 8;  // input channels of a stage
constexpr int kHiddenVectors = kHiddenSlice / 8;
constexpr int kCells = kHiddenThreads / kHiddenVectors;  // pixels that threads take at a time

template <HiddenKind kKind, int kStrideOf>
struct HiddenShape {
  static constexpr bool kGrouped = kKind == HiddenKind::kGrouped3;
  static constexpr int kStride = kStrideOf;
  static constexpr int kKernel = kKind == HiddenKind::kDepthwise5 ? 5 : 3, kTaps = kKernel * kKernel;
  // Elements of the parts of shared memory; what the group convolution gives lies in the place of the stages.
  static constexpr int kExpanded = (kHiddenPixels + 1) * kHiddenRow;
  static constexpr int kStage = (kHiddenPixels + kHiddenSlice) * kDepthStride;
  static constexpr int kWeights = kGrouped ? kHiddenVectors * kTaps * 2 * kWarp : kTaps * kHiddenSlice;
  static constexpr int kCell =
      kKernel == 3 && kStride == 1 ? 4 : 2;  // outputs side by side that a thread computes at a time
  static constexpr int kNumbers = 2 * (kHiddenWarps + 1) * kHiddenSlice;  // fp32: sums of warps, then biases
  static constexpr int64_t kBytes = 2 * (kExpanded + 2 * kStage + kWeights + kNumbers);
};

// A range of rows or columns that a block computes or needs.
struct HiddenSpan {
  int first, count;
};

// What `count` positions from `first` on read of `size` positions through a window; positions outside do not exist.
CONVFIRST_DEVICE HiddenSpan seen_span(HiddenSpan of, int stride, int before, int kernel, int size) {
  const int first = of.first * stride - before, last = (of.first + of.count - 1) * stride - before + kernel - 1;
  const int begin = first < 0 ? 0 : first, end = last < size ? last + 1 : size;
  return {begin, end - begin};
}

// Tile number `number` of `size` positions, `count` each.
CONVFIRST_DEVICE HiddenSpan span_of(int number, int count, int size) {
  const int first = number * count;
  return {first, size - first < count ? size - first : count};
}

template <class T, class Shape>
struct HiddenKernel {
  const HiddenPass& pass;
  Shared<T> expanded, stages, conv_weights;
  Shared<float> warp_sums;
  int warp, lane, slice, image, images, tile;  // the first channel, the first image and their number
  HiddenSpan in_y, in_x;                       // of the input

  // Of the outputs and of the convolution; computed where they are needed, so that no register holds them all along.
  CONVFIRST_DEVICE HiddenSpan out_y() const { return span_of(tile / pass.tile.tile_columns, pass.tile.rows, pass.p); }
  CONVFIRST_DEVICE HiddenSpan out_x() const {
    return span_of(tile % pass.tile.tile_columns, pass.tile.columns, pass.q);
  }
  CONVFIRST_DEVICE HiddenSpan conv_y() const { return pass.blurs ? seen_span(out_y(), 2, 1, 3, pass.conv_h) : out_y(); }
  CONVFIRST_DEVICE HiddenSpan conv_x() const { return pass.blurs ? seen_span(out_x(), 2, 1, 3, pass.conv_w) : out_x(); }

  CONVFIRST_DEVICE Shared<float> biases() const { return warp_sums + kHiddenWarps * kHiddenSlice; }
  CONVFIRST_DEVICE int seen() const { return in_y.count * in_x.count; }  // pixels of an image
  CONVFIRST_DEVICE static float bias_of(const Buffer& bias, int i, int count) {
    return bias.data && i < count ? Global<const float>(bias).load(i) : 0.0f;
  }

  // The block's first image.
  CONVFIRST_DEVICE Global<const T> first_image() const {
    return Global<const T>(pass.input) + static_cast<int64_t>(image) * (pass.h * pass.w * pass.c);
  }
  // Its element where pixel number `i` of the block starts, or -1.
  CONVFIRST_DEVICE int source(int i) const {
    const int of_image = i / seen(), at = i - of_image * seen(), y = at / in_x.count, x = at - y * in_x.count;
    if (of_image >= images) return -1;
    return ((of_image * pass.h + in_y.first + y) * pass.w + in_x.first + x) * pass.c;
  }

  CONVFIRST_DEVICE Shared<T> stage(int chunk) const { return stages + chunk % 2 * Shape::kStage; }

  // 32 input channels of all pixels, and of the slice's rows of the expansion; zeros beyond either.
  CONVFIRST_DEVICE void fetch(int chunk, const int (&from)[4]) const {
    const Global<const T> input = first_image(), weight(pass.expand_weight);
    const int own = static_cast<int>(threadIdx.x) / 4, vector = static_cast<int>(threadIdx.x) % 4 * 8;
    const int channel = chunk * kDepth + vector;
    const Shared<T> pixels = stage(chunk), rows = pixels + kHiddenPixels * kDepthStride;
    CONVFIRST_UNROLL
    for (int i = 0; i < 4; ++i) {
      const bool valid = from[i] >= 0 && channel < pass.c;
      copy_async<16>(pixels + (i * kHiddenSlice + own) * kDepthStride + vector, input + (valid ? from[i] + channel : 0),
                     valid);
    }
    const bool valid = slice + own < pass.hidden && channel < pass.c;
    copy_async<16>(rows + own * kDepthStride + vector,
                   weight + (valid ? static_cast<int64_t>(slice + own) * pass.c + channel : 0), valid);
  }

  CONVFIRST_DEVICE void multiply(int chunk, float (&d)[2][kHiddenVectors][4]) const {
    const Shared<T> pixel = stage(chunk) + (warp * kPixelsOfWarp + lane % 16) * kDepthStride + lane / 16 * 8;
    const Shared<T> row = stage(chunk) + (kHiddenPixels + lane / 16 * 8 + lane % 8) * kDepthStride + lane / 8 % 2 * 8;
    // Not unrolled, so that all operands fit into registers.
    CONVFIRST_NO_UNROLL
    for (int k = 0; k < kDepth; k += 16) {
      unsigned a[2][4];
      load_matrices<false>(a[0], pixel + k);
      load_matrices<false>(a[1], pixel + 16 * kDepthStride + k);
      CONVFIRST_UNROLL
      for (int j = 0; j < kHiddenVectors; j += 2) {
        unsigned b[4];
        load_matrices<false>(b, row + 8 * j * kDepthStride + k);
        CONVFIRST_UNROLL
        for (int i = 0; i < 2; ++i) {
          multiply_16x8x16<T>(d[i][j], a[i], {b[0], b[1]});
          multiply_16x8x16<T>(d[i][j + 1], a[i], {b[2], b[3]});
        }
      }
    }
  }

  CONVFIRST_DEVICE void expand() const {
    int from[4];
    CONVFIRST_UNROLL
    for (int i = 0; i < 4; ++i) from[i] = source(i * kHiddenSlice + static_cast<int>(threadIdx.x) / 4);
    const int chunks = ceil_div(pass.c, kDepth), first = warp * kPixelsOfWarp, pixels = images * seen();
    float d[2][kHiddenVectors][4];
    CONVFIRST_UNROLL
    for (int j = 0; j < kHiddenVectors; ++j) {
      const int channel = slice + 8 * j + 2 * (lane % 4);
      const float bias[2] = {bias_of(pass.expand_bias, channel, pass.hidden),
                             bias_of(pass.expand_bias, channel + 1, pass.hidden)};
      CONVFIRST_UNROLL
      for (int i = 0; i < 8; ++i) d[i / 4][j][i % 4] = bias[i % 2];
    }
    fetch(0, from);
    commit_copies();
    CONVFIRST_NO_UNROLL
    for (int chunk = 0; chunk < chunks; ++chunk) {
      wait_copies<0>();
      __syncthreads();  // the chunk has come, and the one before is no longer read
      if (chunk + 1 < chunks) fetch(chunk + 1, from);
      commit_copies();
      if (first < pixels) multiply(chunk, d);
    }
    CONVFIRST_UNROLL
    for (int i = 0; i < 2; ++i) {
      activate(d[i], pass.activation);
      CONVFIRST_UNROLL
      for (int j = 0; j < kHiddenVectors; ++j) {
        CONVFIRST_UNROLL
        for (int half = 0; half < 2; ++half) {
          const int pixel = first + 16 * i + 8 * half + lane / 4;
          const Shared<T> to = expanded + pixel * kHiddenRow + 8 * j + 2 * (lane % 4);
          if (pixel < pixels) to.template store_vector<2>(0, narrow<T>({d[i][j][2 * half], d[i][j][2 * half + 1]}));
        }
      }
    }
  }

  // The slice of the input itself, where nothing is expanded.
  CONVFIRST_DEVICE void copy_input() const {
    const Global<const T> input = first_image();
    for (int i = static_cast<int>(threadIdx.x); i < images * seen() * kHiddenVectors; i += kHiddenThreads) {
      const int pixel = i / kHiddenVectors, own = i % kHiddenVectors * 8, channel = slice + own;
      const bool valid = channel < pass.c;
      copy_async<16>(expanded + pixel * kHiddenRow + own, input + (valid ? source(pixel) + channel : 0), valid);
    }
    commit_copies();
    wait_copies<0>();
  }

  CONVFIRST_DEVICE void stage_weights() const {
    const Global<const T> weight(pass.conv_weight);
    const T zero = from_float<T>(0.0f);
    if constexpr (Shape::kGrouped) {  // B fragments, [group][tap][lane]
      for (int i = static_cast<int>(threadIdx.x); i < Shape::kWeights / 2; i += kHiddenThreads) {
        const int of = i % kWarp, tap = i / kWarp % Shape::kTaps,
                  output = slice + i / (kWarp * Shape::kTaps) * 8 + of / 4;
        const bool valid = output < pass.hidden;
        const int64_t from = static_cast<int64_t>(output * 8 + 2 * (of % 4)) * Shape::kTaps + tap;
        conv_weights.template store_vector<2>(
            2 * i, {{valid ? weight.load(from) : zero, valid ? weight.load(from + Shape::kTaps) : zero}});
      }
    } else {  // [tap][channel]
      for (int i = static_cast<int>(threadIdx.x); i < Shape::kWeights; i += kHiddenThreads) {
        const int tap = i / kHiddenSlice, channel = slice + i % kHiddenSlice;
        const bool valid = channel < pass.hidden;
        conv_weights.store(i, valid ? weight.load(static_cast<int64_t>(channel) * Shape::kTaps + tap) : zero);
      }
    }
    for (int i = static_cast<int>(threadIdx.x); i < kHiddenSlice; i += kHiddenThreads) {
      biases().store(i, bias_of(pass.conv_bias, slice + i, pass.hidden));
    }
    for (int i = static_cast<int>(threadIdx.x); i < kHiddenRow; i += kHiddenThreads) {
      expanded.store(kHiddenPixels * kHiddenRow + i, zero);
    }
  }

  // Row y and column x of the expanded image number `of_image` of the block; zeros outside of the image.
  CONVFIRST_DEVICE Shared<T> pixel_at(int of_image, int y, int x) const {
    const int row = y - in_y.first, column = x - in_x.first;
    const bool inside = row >= 0 && row < in_y.count && column >= 0 && column < in_x.count;
    return expanded + (inside ? (of_image * in_y.count + row) * in_x.count + column : kHiddenPixels) * kHiddenRow;
  }

  // Stores 8 channels of an output and adds them to the thread's sums.
  CONVFIRST_DEVICE void emit(int of_image, int p, int q, const float (&x)[8], float (&sums)[8]) const {
    const int channel = slice + static_cast<int>(threadIdx.x) % kHiddenVectors * 8;
    if (channel >= pass.hidden) return;
    CONVFIRST_UNROLL
    for (int i = 0; i < 8; ++i) sums[i] += x[i];
    const int64_t pixel = (static_cast<int64_t>(image + of_image) * pass.p + p) * pass.q + q;
    Global<T>(pass.output).template store_vector<8>(pixel * pass.hidden + channel, narrow<T>(x));
  }

  // Adds up the threads' sums of one image's channels.
  CONVFIRST_DEVICE void reduce(int of_image, float (&sums)[8]) const {
    if (!pass.sums.data) return;
    CONVFIRST_UNROLL
    for (int i = 0; i < 8; ++i) {
      for (int step = kHiddenVectors; step < kWarp; step *= 2) sums[i] += shuffle(sums[i], lane ^ step);
      if (lane < kHiddenVectors) warp_sums.store(warp * kHiddenSlice + lane * 8 + i, sums[i]);
    }
    __syncthreads();  // every warp's sums are there
    const int own = static_cast<int>(threadIdx.x);
    if (own < kHiddenSlice && slice + own < pass.hidden) {
      float sum = 0.0f;
      for (int i = 0; i < kHiddenWarps; ++i) sum += warp_sums.load(i * kHiddenSlice + own);
      const int64_t row = static_cast<int64_t>(image + of_image) * pass.tile.tiles() + tile;
      Global<float>(pass.sums).store(row * pass.hidden + slice + own, sum);
    }
    __syncthreads();  // they are no longer read
  }

  // Depthwise, outputs side by side from column x of row y.
  CONVFIRST_DEVICE void sum_cell(int of_image, int y, int x, int own, float (&sums)[Shape::kCell][8]) const {
    constexpr int kKernel = Shape::kKernel, kStride = Shape::kStride, kCell = Shape::kCell;
    CONVFIRST_NO_UNROLL
    for (int r = 0; r < kKernel; ++r) {
      float w[kKernel][8];
      CONVFIRST_UNROLL
      for (int s = 0; s < kKernel; ++s) {
        const auto stored = conv_weights.template load_vector<8>((r * kKernel + s) * kHiddenSlice + own);
        CONVFIRST_UNROLL
        for (int i = 0; i < 8; ++i) w[s][i] = to_float(stored[i]);
      }
      CONVFIRST_UNROLL
      for (int column = 0; column < (kCell - 1) * kStride + kKernel; ++column) {
        const auto stored = (pixel_at(of_image, y + r, x + column) + own).template load_vector<8>(0);
        CONVFIRST_UNROLL
        for (int q = 0; q < kCell; ++q) {
          const int s = column - q * kStride;
          if (s < 0 || s >= kKernel) continue;
          CONVFIRST_UNROLL
          for (int i = 0; i < 8; ++i) sums[q][i] += to_float(stored[i]) * w[s][i];
        }
      }
    }
  }

  CONVFIRST_DEVICE void convolve_depthwise(int of_image) const {
    constexpr int kCell = Shape::kCell;
    const HiddenSpan rows = out_y(), columns = out_x();
    const int own = static_cast<int>(threadIdx.x) % kHiddenVectors * 8, cells = ceil_div(columns.count, kCell);
    float total[8] = {};
    for (int i = static_cast<int>(threadIdx.x) / kHiddenVectors; i < rows.count * cells; i += kCells) {
      const int p = rows.first + i / cells, q = columns.first + i % cells * kCell;
      float sums[kCell][8];
      CONVFIRST_UNROLL
      for (int k = 0; k < 8; ++k) {
        const float bias = biases().load(own + k);
        CONVFIRST_UNROLL
        for (int column = 0; column < kCell; ++column) sums[column][k] = bias;
      }
      sum_cell(of_image, p * Shape::kStride - pass.top, q * Shape::kStride - pass.left, own, sums);
      activate(sums, pass.activation);
      CONVFIRST_UNROLL
      for (int k = 0; k < kCell; ++k) {
        if (q + k < columns.first + columns.count) emit(of_image, p, q + k, sums[k], total);
      }
    }
    reduce(of_image, total);
  }

  // The warp's group of all the pixels of the convolution, into `convolved`.
  CONVFIRST_DEVICE void convolve_grouped(Shared<T> convolved) const {
    const HiddenSpan rows = conv_y(), columns = conv_x();
    const int area = rows.count * columns.count, pixels = images * area, own = warp * 8 + 2 * (lane % 4);
    const float bias[2] = {bias_of(pass.conv_bias, slice + own, pass.hidden),
                           bias_of(pass.conv_bias, slice + own + 1, pass.hidden)};
    const auto fragment = [&](int tap) {
      return bits_as<unsigned>(conv_weights.template load_vector<2>(2 * ((warp * Shape::kTaps + tap) * kWarp + lane)));
    };
    for (int first = 0; first < pixels; first += 16) {
      const int i = first + lane % 16 < pixels ? first + lane % 16 : pixels - 1;
      const int of_image = i / area, at = i - of_image * area;
      const int y = rows.first + at / columns.count - pass.top, x = columns.first + at % columns.count - pass.left;
      const auto place = [&](int tap) { return pixel_at(of_image, y + tap / 3, x + tap % 3) + warp * 8; };
      float d[4] = {bias[0], bias[1], bias[0], bias[1]};
      CONVFIRST_UNROLL
      for (int tap = 0; tap + 1 < Shape::kTaps; tap += 2) {
        unsigned a[4];
        load_matrices<false>(a, place(lane < 16 ? tap : tap + 1));
        multiply_16x8x16<T>(d, a, {fragment(tap), fragment(tap + 1)});
      }
      unsigned a[2];
      load_matrices<false>(a, place(Shape::kTaps - 1));
      multiply_16x8x8<T>(d, a, fragment(Shape::kTaps - 1));
      activate(d, pass.activation);
      CONVFIRST_UNROLL
      for (int half = 0; half < 2; ++half) {
        const int pixel = first + lane / 4 + 8 * half;
        if (pixel < pixels) {
          (convolved + pixel * kHiddenRow + own).template store_vector<2>(0, narrow<T>({d[2 * half], d[2 * half + 1]}));
        }
      }
    }
  }

  CONVFIRST_DEVICE static int reflected(int i, int size) { return i < 0 ? -i : i >= size ? 2 * size - 2 - i : i; }

  // 8 channels of an output, from where the group convolution is.
  CONVFIRST_DEVICE void gather(Shared<T> convolved, const HiddenSpan& rows, const HiddenSpan& columns, int p, int q,
                               float (&x)[8]) const {
    const auto add = [&](int y, int column, float factor) {
      const int at = (y - rows.first) * columns.count + column - columns.first;
      const auto stored = (convolved + at * kHiddenRow).template load_vector<8>(0);
      CONVFIRST_UNROLL
      for (int i = 0; i < 8; ++i) x[i] += factor * to_float(stored[i]);
    };
    if (!pass.blurs) return add(p, q, 1.0f);
    CONVFIRST_UNROLL
    for (int i = 0; i < 9; ++i) {
      const float factor = (i / 3 == 1 ? 0.5f : 0.25f) * (i % 3 == 1 ? 0.5f : 0.25f);
      add(reflected(2 * p - 1 + i / 3, pass.conv_h), reflected(2 * q - 1 + i % 3, pass.conv_w), factor);
    }
  }

  CONVFIRST_DEVICE void emit_grouped(Shared<T> convolved, int of_image) const {
    const int own = static_cast<int>(threadIdx.x) % kHiddenVectors * 8;
    const HiddenSpan out_rows = out_y(), out_columns = out_x(), rows = conv_y(), columns = conv_x();
    const Shared<T> from = convolved + of_image * rows.count * columns.count * kHiddenRow + own;
    float total[8] = {};
    for (int i = static_cast<int>(threadIdx.x) / kHiddenVectors; i < out_rows.count * out_columns.count; i += kCells) {
      const int p = out_rows.first + i / out_columns.count, q = out_columns.first + i % out_columns.count;
      float x[8] = {};
      gather(from, rows, columns, p, q, x);
      emit(of_image, p, q, x, total);
    }
    reduce(of_image, total);
  }

  CONVFIRST_DEVICE void run() const {
    stage_weights();
    if (pass.expand_weight.data) {
      expand();
    } else {
      copy_input();
    }
    __syncthreads();  // the expanded pixels are there, and nobody reads the stages
    if constexpr (Shape::kGrouped) {
      convolve_grouped(stages);
      __syncthreads();  // every group is there
      for (int i = 0; i < images; ++i) emit_grouped(stages, i);
    } else {
      for (int i = 0; i < images; ++i) convolve_depthwise(i);
    }
  }
};

template <class T, HiddenKind kKind, int kStride>
__global__ void __launch_bounds__(kHiddenThreads, 2) hidden_kernel(const CONVFIRST_GRID_CONSTANT HiddenPass pass) {
  using Shape = HiddenShape<kKind, kStride>;
  const HiddenTile& plan = pass.tile;
  const int slices = ceil_div(pass.hidden, kHiddenSlice), tiles = plan.tile_rows * plan.tile_columns;
  const int block = static_cast<int>(blockIdx.x), slice = block % slices, tile = block / slices % tiles;
  const int image = block / slices / tiles * plan.images;
  const Shared<T> memory = shared_memory<T>(), stages = memory + Shape::kExpanded, weights = stages + 2 * Shape::kStage;
  HiddenKernel<T, Shape> kernel = {pass,
                                   memory,
                                   stages,
                                   weights,
                                   (weights + Shape::kWeights).template as<float>(),
                                   static_cast<int>(threadIdx.x) / kWarp,
                                   static_cast<int>(threadIdx.x) % kWarp,
                                   slice * kHiddenSlice,
                                   image,
                                   pass.n - image < plan.images ? pass.n - image : plan.images,
                                   tile,
                                   {},
                                   {}};
  kernel.in_y = seen_span(kernel.conv_y(), kStride, pass.top, Shape::kKernel, pass.h);
  kernel.in_x = seen_span(kernel.conv_x(), kStride, pass.left, Shape::kKernel, pass.w);
  kernel.run();
}

}  // namespace convfirst::cuda
