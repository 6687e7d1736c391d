// The whole MBConv block with squeeze-excite in one kernel (Lavin, arXiv 2404.03617, sections 5.4 and 5.5.2), with the
// thread blocks of an image in one cluster, so that nothing of the hidden tensor ever leaves shared memory.
//
// Tile: a cluster takes one image of up to 256 pixels, each of its blocks of 8 warps 64 hidden channels: it expands
// them (A: 16 pixels of the input, staged 128 at a time), convolves them (a warp a group), keeps their means, and gates
// them. Squeeze-excite's first layer sums over all hidden channels: every block adds up its own part and reads the
// others' through distributed shared memory, in order, so results are deterministic. A block's hidden channels then
// give a part of every output, in fp32 in shared memory; each block adds up, over the cluster, the outputs of its share
// of the pixels. Layout: NHWC, 16-byte aligned, C a multiple of 8 up to 128, hidden a multiple of 64 up to 1024; sums
// are fp32.
//
// Cost: of a pixel 4 C bytes of DRAM traffic and 4 C E + 144 E FLOPs; of an image 4 C E + 144 E bytes of weights, from
// L2, and of a pixel 4 C E / 64 bytes through distributed shared memory. Prediction for an H200 (mma.sync at 60% of
// 790 TFLOP/s, 132 SMs at 1.7 GHz, one block a multiprocessor) for C = 128, E = 768, 14 x 14, N = 128: 12.6 GFLOP of
// products, 27 us; the outputs' parts, 154 MB written and read at 128 bytes a clock, 2 x 5 us; the input, 12 times from
// L2, 77 MB, 15 us. With little overlap 55 us, 29% of the tensor cores' rate.
#pragma once

#include "device/async_copy.cuh"
#include "device/cluster.cuh"
#include "device/mma.cuh"
#include "device/warp.cuh"
#include "mbconv.h"

namespace convfirst::cuda {

constexpr int kMBWarps = 8, kMBThreads = kMBWarps * kWarp;
constexpr int kSlice = 64;  // hidden channels of a block
constexpr int kMBPad = 8;   // elements behind every row: ldmatrix meets all banks
constexpr int kRow = kSlice + kMBPad;
constexpr int kMBTaps = 9, kMBGroup = 8, kMBTile = 16;
constexpr int kStagedPixels = kMBWarps * kMBTile;
constexpr int kMostPixels = 256, kMostChannels = 128, kMostSqueezed = 256;

// Where everything lies in shared memory, in bytes; parts that live at different times share their place.
struct MBConvLayout {
  int image_row;  // elements of a row of the staged input and of the expansion's weights: channels and padding
  int64_t framed, staged, expand, conv, partial, hidden, project, numbers, total;

  __host__ __device__ MBConvLayout(int c, int h, int w) {
    const int channels = (c + 15) / 16 * 16, tiles = (h * w + kMBTile - 1) / kMBTile;
    image_row = channels + kMBPad;
    framed = 0;  // the expanded channels with a frame of zeros
    staged = framed + int64_t{2} * (h + 2) * (w + 2) * kRow;
    expand = staged + 2 * kStagedPixels * image_row;
    conv = expand + 2 * kSlice * image_row;
    const int64_t early = conv + 2 * 2 * kMBWarps * kMBTaps * kWarp;
    partial = 0;  // fp32 parts of the outputs, in the place of all these
    const int64_t late = int64_t{4} * tiles * kMBTile * (channels + 4);
    hidden = ((early > late ? early : late) + 15) & ~int64_t{15};
    project = hidden + int64_t{2} * tiles * kMBTile * kRow;
    numbers = project + 2 * channels * kRow;  // means, the squeezed sums' parts, the squeezed values, the gate
    total = numbers + 4 * (2 * kSlice + 2 * kMostSqueezed);
  }
};

template <class T>
struct MBConvKernel {
  const MBConvBlock& block;
  const MBConvLayout& layout;
  Shared<unsigned char> memory;
  int warp, lane, rank, blocks;  // of the cluster
  int64_t base;                  // pixels before this image

  template <class U>
  CONVFIRST_DEVICE Shared<U> part(int64_t offset) const {
    return (memory + static_cast<int>(offset)).template as<U>();
  }
  CONVFIRST_DEVICE int pixels() const { return block.h * block.w; }
  CONVFIRST_DEVICE int tiles() const { return (pixels() + kMBTile - 1) / kMBTile; }
  CONVFIRST_DEVICE int steps() const { return (block.c + 15) / 16; }  // of 16 channels
  CONVFIRST_DEVICE int partial_row() const { return 16 * steps() + 4; }
  CONVFIRST_DEVICE Shared<float> means() const { return part<float>(layout.numbers); }
  CONVFIRST_DEVICE Shared<float> gate() const { return means() + kSlice; }
  CONVFIRST_DEVICE Shared<float> squeezed_part() const { return gate() + kSlice; }
  CONVFIRST_DEVICE Shared<float> squeezed() const { return squeezed_part() + kMostSqueezed; }

  // The frame's place of a pixel; pixels beyond the last one share its place and are never kept.
  CONVFIRST_DEVICE Shared<T> framed(int pixel) const {
    const int own = pixel < pixels() ? pixel : pixels() - 1;
    return part<T>(layout.framed) + (own / block.w * (block.w + 2) + own % block.w) * kRow;
  }

  CONVFIRST_DEVICE static float bias_at(const Buffer& bias, int i) {
    return bias.data ? Global<const float>(bias).load(i) : 0.0f;
  }

  // Copies `rows` rows of `vectors` vectors; source(row) is where a row starts, negative where it is all zeros.
  template <class Source>
  CONVFIRST_DEVICE void fetch(Shared<T> to, int row_elements, const Buffer& buffer, int rows, int filled, int vectors,
                              const Source& source) const {
    const Global<const T> from(buffer);
    for (int i = static_cast<int>(threadIdx.x); i < rows * vectors; i += kMBThreads) {
      const int row = i / vectors, at = i % vectors * 8;
      const int64_t start = source(row);
      const bool valid = start >= 0 && at < filled;
      copy_async<16>(to + row * row_elements + at, from + (valid ? start + at : 0), valid);
    }
  }

  CONVFIRST_DEVICE void prepare() const {
    const int own = rank * kSlice, vectors = 2 * steps();
    fetch(part<T>(layout.expand), layout.image_row, block.expand_weight, kSlice, block.c, vectors,
          [&](int row) { return static_cast<int64_t>(own + row) * block.c; });
    fetch(part<T>(layout.project), kRow, block.project_weight, 16 * steps(), kSlice, kSlice / 8,
          [&](int row) { return row < block.c ? static_cast<int64_t>(row) * block.hidden + own : int64_t{-1}; });
    const Global<const T> weight(block.conv_weight);
    for (int i = static_cast<int>(threadIdx.x); i < kMBWarps * kMBTaps * kWarp; i += kMBThreads) {
      const int of = i % kWarp, tap = i / kWarp % kMBTaps, output = own + i / (kWarp * kMBTaps) * kMBGroup + of / 4;
      const int64_t from = static_cast<int64_t>(output * kMBGroup + 2 * (of % 4)) * kMBTaps + tap;
      part<T>(layout.conv).template store_vector<2>(2 * i, {{weight.load(from), weight.load(from + kMBTaps)}});
    }
    const Vector<T, 8> zeros = {};
    const int frame = (block.h + 2) * (block.w + 2) * kRow / 8;
    for (int i = static_cast<int>(threadIdx.x); i < frame; i += kMBThreads) {
      part<T>(layout.framed).template store_vector<8>(8 * i, zeros);
    }
  }

  // Expands the slice's channels of 128 pixels from `first` on, which are staged; a warp takes 16.
  CONVFIRST_DEVICE void expand_staged(int first) const {
    float d[kSlice / 8][4];
    CONVFIRST_UNROLL
    for (int j = 0; j < kSlice / 8; ++j) {
      const int channel = rank * kSlice + 8 * j + 2 * (lane % 4);
      d[j][0] = d[j][2] = bias_at(block.expand_bias, channel);
      d[j][1] = d[j][3] = bias_at(block.expand_bias, channel + 1);
    }
    const int row = layout.image_row;
    const Shared<T> pixel = part<T>(layout.staged) + (warp * kMBTile + lane % 16) * row + lane / 16 * 8;
    const Shared<T> weight = part<T>(layout.expand) + (lane / 16 * 8 + lane % 8) * row + lane / 8 % 2 * 8;
    for (int k = 0; k < steps(); ++k) {
      unsigned a[4];
      load_matrices<false>(a, pixel + 16 * k);
      CONVFIRST_UNROLL
      for (int j = 0; j < kSlice / 16; ++j) {
        unsigned b[4];
        load_matrices<false>(b, weight + 16 * j * row + 16 * k);
        multiply_16x8x16<T>(d[2 * j], a, {b[0], b[1]});
        multiply_16x8x16<T>(d[2 * j + 1], a, {b[2], b[3]});
      }
    }
    activate(d, block.activation);
    CONVFIRST_UNROLL
    for (int j = 0; j < kSlice / 8; ++j) {
      CONVFIRST_UNROLL
      for (int half = 0; half < 2; ++half) {
        const int own = first + warp * kMBTile + lane / 4 + 8 * half;
        if (own >= pixels()) continue;
        const int inside = (block.w + 3) * kRow;  // past the frame's first row and column
        (framed(own) + inside + 8 * j + 2 * (lane % 4))
            .template store_vector<2>(0, narrow<T>({d[j][2 * half], d[j][2 * half + 1]}));
      }
    }
  }

  CONVFIRST_DEVICE void expand() const {
    for (int first = 0; first < pixels(); first += kStagedPixels) {
      fetch(part<T>(layout.staged), layout.image_row, block.input, kStagedPixels, block.c, 2 * steps(),
            [&](int row) { return first + row < pixels() ? (base + first + row) * block.c : int64_t{-1}; });
      commit_copies();
      wait_copies<0>();
      __syncthreads();  // weights, frame and this part of the input are there
      expand_staged(first);
      __syncthreads();  // the staged input is no longer read; in the end, all channels are there
    }
  }

  // The warp's group of 16 pixels.
  CONVFIRST_DEVICE void convolve_tile(int tile, float (&d)[4]) const {
    const Shared<T> corner = framed(tile * kMBTile + lane % 16) + warp * kMBGroup;
    const auto at = [&](int tap) { return corner + (tap / 3 * (block.w + 2) + tap % 3) * kRow; };
    const auto fragment = [&](int tap) {
      return bits_as<unsigned>(
          part<T>(layout.conv).template load_vector<2>(2 * ((warp * kMBTaps + tap) * kWarp + lane)));
    };
    CONVFIRST_UNROLL
    for (int i = 0; i + 1 < kMBTaps; i += 2) {
      unsigned a[4];
      load_matrices<false>(a, at(lane < 16 ? i : i + 1));
      multiply_16x8x16<T>(d, a, {fragment(i), fragment(i + 1)});
    }
    unsigned a[2];
    load_matrices<false>(a, at(kMBTaps - 1));
    multiply_16x8x8<T>(d, a, fragment(kMBTaps - 1));
    activate(d, block.activation);
  }

  // Convolves and keeps the means over the pixels.
  CONVFIRST_DEVICE void convolve() const {
    const int own = warp * kMBGroup + 2 * (lane % 4);
    const float bias[2] = {bias_at(block.conv_bias, rank * kSlice + own),
                           bias_at(block.conv_bias, rank * kSlice + own + 1)};
    float sums[2] = {};
    for (int tile = 0; tile < tiles(); ++tile) {
      float d[4] = {bias[0], bias[1], bias[0], bias[1]};
      convolve_tile(tile, d);
      CONVFIRST_UNROLL
      for (int half = 0; half < 2; ++half) {
        const int pixel = tile * kMBTile + lane / 4 + 8 * half;
        const bool kept = pixel < pixels();
        const float x[2] = {kept ? d[2 * half] : 0.0f, kept ? d[2 * half + 1] : 0.0f};
        sums[0] += x[0], sums[1] += x[1];
        (part<T>(layout.hidden) + pixel * kRow + own).template store_vector<2>(0, narrow<T>(x));
      }
    }
    CONVFIRST_UNROLL
    for (int i = 0; i < 2; ++i) {
      for (int step = 4; step < kWarp; step *= 2) sums[i] += shuffle(sums[i], lane ^ step);
      if (lane < 4) means().store(own + i, sums[i] / static_cast<float>(pixels()));
    }
  }

  // The squeezed channels' sums over the slice, then over the cluster, then the slice's gate.
  CONVFIRST_DEVICE void squeeze_and_excite() const {
    __syncthreads();  // the means are there
    const Global<const float> reduce(block.se_reduce_weight), excite(block.se_expand_weight);
    for (int j = warp; j < block.squeezed; j += kMBWarps) {
      const int64_t row = static_cast<int64_t>(j) * block.hidden + rank * kSlice;
      const float own =
          reduce.load(row + lane) * means().load(lane) + reduce.load(row + kWarp + lane) * means().load(kWarp + lane);
      const float sum = sum_lanes(own, kWarp);
      if (lane == 0) squeezed_part().store(j, sum);
    }
    sync_cluster();  // every block's part is there
    for (int j = static_cast<int>(threadIdx.x); j < block.squeezed; j += kMBThreads) {
      float sum[1] = {bias_at(block.se_reduce_bias, j)};
      for (int other = 0; other < blocks; ++other) sum[0] += map_shared(squeezed_part(), other).load(j);
      activate(sum, block.se_activation);
      squeezed().store(j, sum[0]);
    }
    __syncthreads();  // the squeezed channels are there
    for (int e = static_cast<int>(threadIdx.x); e < kSlice; e += kMBThreads) {
      float sum = bias_at(block.se_expand_bias, rank * kSlice + e);
      const int64_t row = static_cast<int64_t>(rank * kSlice + e) * block.squeezed;
      for (int j = 0; j < block.squeezed; ++j) sum += excite.load(row + j) * squeezed().load(j);
      gate().store(e, sigmoid(sum));
    }
    __syncthreads();  // the gate is there
    for (int i = static_cast<int>(threadIdx.x); i < pixels() * (kSlice / 8); i += kMBThreads) {
      const int channel = i % (kSlice / 8) * 8;
      const Shared<T> at = part<T>(layout.hidden) + i / (kSlice / 8) * kRow + channel;
      const auto stored = at.template load_vector<8>(0);
      float x[8];
      CONVFIRST_UNROLL
      for (int k = 0; k < 8; ++k) x[k] = to_float(stored[k]) * gate().load(channel + k);
      at.template store_vector<8>(0, narrow<T>(x));
    }
  }

  // The slice's part of all outputs, 16 channels of 16 pixels at a time.
  CONVFIRST_DEVICE void project() const {
    const Shared<float> partial = part<float>(layout.partial);
    for (int tile = warp; tile < tiles(); tile += kMBWarps) {
      unsigned a[kSlice / 16][4];
      CONVFIRST_UNROLL
      for (int k = 0; k < kSlice / 16; ++k) {
        load_matrices<false>(a[k],
                             part<T>(layout.hidden) + (tile * kMBTile + lane % 16) * kRow + 16 * k + lane / 16 * 8);
      }
      for (int j = 0; j < steps(); ++j) {
        float d[2][4] = {};
        CONVFIRST_UNROLL
        for (int k = 0; k < kSlice / 16; ++k) {
          unsigned b[4];
          load_matrices<false>(
              b, part<T>(layout.project) + (16 * j + lane / 16 * 8 + lane % 8) * kRow + 16 * k + lane / 8 % 2 * 8);
          multiply_16x8x16<T>(d[0], a[k], {b[0], b[1]});
          multiply_16x8x16<T>(d[1], a[k], {b[2], b[3]});
        }
        CONVFIRST_UNROLL
        for (int i = 0; i < 4; ++i) {
          const int pixel = tile * kMBTile + lane / 4 + i % 2 * 8, channel = 16 * j + i / 2 * 8 + 2 * (lane % 4);
          const float* own = &d[i / 2][i % 2 * 2];
          partial.template store_vector<2>(pixel * partial_row() + channel, {{own[0], own[1]}});
        }
      }
    }
  }

  // The cluster's parts of this block's share of the pixels.
  CONVFIRST_DEVICE void add_up() const {
    const Shared<float> partial = part<float>(layout.partial);
    const int pairs = block.c / 2, first = pixels() * rank / blocks, end = pixels() * (rank + 1) / blocks;
    const Global<const T> input = Global<const T>(block.input) + base * block.c;
    const Global<T> output = Global<T>(block.output) + base * block.c;
    for (int i = first * pairs + static_cast<int>(threadIdx.x); i < end * pairs; i += kMBThreads) {
      const int pixel = i / pairs, channel = i % pairs * 2;
      float x[2] = {bias_at(block.project_bias, channel), bias_at(block.project_bias, channel + 1)};
      for (int other = 0; other < blocks; ++other) {
        const auto added = map_shared(partial, other).template load_vector<2>(pixel * partial_row() + channel);
        x[0] += added[0], x[1] += added[1];
      }
      if (block.residual) {
        const auto added = input.template load_vector<2>(2 * int64_t{i});
        x[0] += to_float(added[0]), x[1] += to_float(added[1]);
      }
      output.template store_vector<2>(2 * int64_t{i}, narrow<T>(x));
    }
  }

  CONVFIRST_DEVICE void run() const {
    prepare();
    expand();
    convolve();
    if (block.squeezed) squeeze_and_excite();
    __syncthreads();  // the hidden channels are ready, and what lay where the outputs' parts go is no longer read
    project();
    sync_cluster();  // every block's part is there
    add_up();
    sync_cluster();  // nobody leaves while others read
  }
};

template <class T>
__global__ void __launch_bounds__(kMBThreads, 1) mbconv_kernel(const CONVFIRST_GRID_CONSTANT MBConvBlock block) {
  const MBConvLayout layout(block.c, block.h, block.w);
  const int blocks = block.hidden / kSlice;
  const MBConvKernel<T> kernel = {block,
                                  layout,
                                  shared_memory<unsigned char>(),
                                  static_cast<int>(threadIdx.x) / kWarp,
                                  static_cast<int>(threadIdx.x) % kWarp,
                                  cluster_rank(),
                                  blocks,
                                  static_cast<int64_t>(blockIdx.x / static_cast<unsigned>(blocks)) * block.h * block.w};
  kernel.run();
}

}  // namespace convfirst::cuda
