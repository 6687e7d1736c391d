// Grouped convolution of group width 8 and 16, forward and data gradient, on tensor cores: 3x3, at width 8 also 5x5;
// stride 1 and 2.
//
// Tile: a block of 8 warps takes one image, 64 channels and 8, 16 or 32 columns, and walks down a strip of rows, 64
// pixels a step. A warp takes one group (several warps share one where the image has fewer than 8): for 16 pixels and
// two taps one ldmatrix gives A (16 pixels x 2 x 8 input channels) and one m16n8k16 adds A B, B the two taps' 8 x 8
// weights; an odd last tap takes m16n8k8. All weights stay in registers. Results leave through shared memory, so that
// every column is written as 128 bytes. Layout: NHWC, 16-byte aligned. Sums are fp32.
//
// Cost of an output pixel and channel: 16 K^2 FLOPs; its own 2 bytes and the input's once from DRAM, plus halos from
// L2. Prediction for an H200 (copy at 4.3 TB/s; 132 SMs at 1.7 GHz that read one 128-byte row of shared memory a clock)
// at stride 1, for 16 pixels of a group (512 bytes of traffic): 3x3 reads 18 rows of A and moves 6 through the ring and
// the results: 24 clocks, 4.8 TB/s, so the memory's 4.3 TB/s bound it; 5x5 56 clocks, 2.0 TB/s, bound by shared memory.
// Tensor cores are busy for 5 and 13 of these clocks.
#pragma once

#include "device/mma.cuh"
#include "grouped_conv2d.h"
#include "grouped_taps.cuh"
#include "strip_plan.cuh"

namespace convfirst::cuda {

constexpr int kGroupedWarps = 8;
constexpr int kGroupedThreads = kGroupedWarps * kWarp;
constexpr int kTilePixels = 16;  // of a product
constexpr int kGroupedChunk = kVectors * 8;

struct GroupedTask {
  Convolution conv;
  StripPlan plan;
  int groups;       // of a chunk that have a warp: 1, 2, 4 or 8
  bool transposed;  // the data gradient: output channels are summed over, and at stride 1 the kernel is turned
};

// Weights of all taps as B fragments, in the order of the phases: of a tap one register at width 8, and at width 16 for
// each half of the output channels both halves of the input channels.
template <class T, int kKernel, bool kPhases, int kWidth>
struct GroupWeights {
  using Window = Taps<kKernel, kPhases>;
  static constexpr int kTiles = kWidth / 8, kOfTap = kTiles * kTiles;
  unsigned fragments[kKernel * kKernel * kOfTap];

  CONVFIRST_DEVICE void load(const GroupedTask& task, int group) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp, column = lane / 4, row = 2 * (lane % 4);
    CONVFIRST_UNROLL
    for (int phase = 0; phase < Window::kCount; ++phase) {
      CONVFIRST_UNROLL
      for (int i = 0; i < Window::count(phase); ++i) {
        const int tap = Window::at(phase, i).index;
        CONVFIRST_UNROLL
        for (int j = 0; j < kOfTap; ++j) {
          const int summed = j % kTiles * 8 + row, result = j / kTiles * 8 + column;
          const Vector<T, 2> pair = {
              {one(task, group, summed, result, tap), one(task, group, summed + 1, result, tap)}};
          fragments[(Window::first(phase) + i) * kOfTap + j] = bits_as<unsigned>(pair);
        }
      }
    }
  }

 private:
  // Element (summed, result) of the group's matrix.
  CONVFIRST_DEVICE static T one(const GroupedTask& task, int group, int summed, int result, int tap) {
    const Weights& weights = task.conv.weights;
    if (!task.transposed) return load_weight<T>(weights, group * kWidth + result, summed, tap);
    const int turned = kPhases ? tap : kKernel * kKernel - 1 - tap;
    return load_weight<T>(weights, group * kWidth + summed, result, turned);
  }
};

// D of 16 pixels at width 16, a tap a product: the lane's own pixel lies in ring row `slot` and column `column`.
template <class T, int kKernel, bool kPhases, int kPhase, class Ring>
CONVFIRST_DEVICE void multiply_taps(const GroupWeights<T, kKernel, kPhases, 16>& weights, const Ring& ring, int slot,
                                    int column, int vector, float (&d)[2][4]) {
  using Window = Taps<kKernel, kPhases>;
  const int half = static_cast<int>(threadIdx.x) % kWarp / kTilePixels;
  CONVFIRST_UNROLL
  for (int i = 0; i < Window::count(kPhase); ++i) {
    const Tap tap = Window::at(kPhase, i);
    const int own = slot + tap.y, first = (Window::first(kPhase) + i) * 4;
    unsigned pixels[4];
    load_matrices<false>(pixels,
                         ring.at(own >= ring.slots ? own - ring.slots : own, column + tap.x, 2 * vector + half));
    const unsigned low[2] = {weights.fragments[first], weights.fragments[first + 1]};
    const unsigned high[2] = {weights.fragments[first + 2], weights.fragments[first + 3]};
    multiply_16x8x16<T>(d[0], pixels, low);
    multiply_16x8x16<T>(d[1], pixels, high);
  }
}

// The same at width 8, two taps a product.
template <class T, int kKernel, bool kPhases, int kPhase, class Ring>
CONVFIRST_DEVICE void multiply_taps(const GroupWeights<T, kKernel, kPhases, 8>& weights, const Ring& ring, int slot,
                                    int column, int vector, float (&d)[1][4]) {
  using Window = Taps<kKernel, kPhases>;
  constexpr int kTaps = Window::count(kPhase), kFirst = Window::first(kPhase);
  const bool second = static_cast<int>(threadIdx.x) % kWarp >= kTilePixels;
  const auto place = [&](const Tap& tap) {
    const int own = slot + tap.y;
    return ring.at(own >= ring.slots ? own - ring.slots : own, column + tap.x, vector);
  };
  CONVFIRST_UNROLL
  for (int i = 0; i + 1 < kTaps; i += 2) {
    const Tap a = Window::at(kPhase, i), b = Window::at(kPhase, i + 1);
    unsigned pixels[4];
    load_matrices<false>(pixels, place({second ? b.y : a.y, second ? b.x : a.x, 0}));
    const unsigned pair[2] = {weights.fragments[kFirst + i], weights.fragments[kFirst + i + 1]};
    multiply_16x8x16<T>(d[0], pixels, pair);
  }
  if constexpr (kTaps % 2 == 1) {
    unsigned pixels[2];
    load_matrices<false>(pixels, place(Window::at(kPhase, kTaps - 1)));
    multiply_16x8x8<T>(d[0], pixels, weights.fragments[kFirst + kTaps - 1]);
  }
}

// Where a lane's results go on their way out: 64 pixels of 64 channels, vectors exchanged so that banks differ.
template <class T>
struct ResultStage {
  Shared<T> memory;
  CONVFIRST_DEVICE Shared<T> at(int pixel, int vector) const {
    return memory + (pixel * kVectors + (vector ^ pixel % kVectors)) * 8;
  }
};

// Bias, activation and residual of a lane's results: channels `channel` and the next of pixels at[0] and at[1] of the
// output, negative where there is none.
template <class T>
CONVFIRST_DEVICE void finish_results(const Convolution& conv, const float (&bias)[2], const int64_t (&at)[2],
                                     float (&d)[4]) {
  CONVFIRST_UNROLL
  for (int i = 0; i < 4; ++i) d[i] += bias[i % 2];
  activate(d, conv.activation);
  if (!conv.residual.data) return;
  const Global<const T> residual(conv.residual);
  CONVFIRST_UNROLL
  for (int i = 0; i < 2; ++i) {
    if (at[i] < 0) continue;
    const auto pair = residual.template load_vector<2>(at[i]);
    d[2 * i] += to_float(pair[0]), d[2 * i + 1] += to_float(pair[1]);
  }
}

// One step's products, tile by tile, and their way into the stage. `top` is the ring's row of the step's first pixel.
template <class T, int kKernel, int kStride, bool kPhases, int kWidth>
struct GroupedStep {
  static constexpr int kTiles = kWidth / 8;  // of 8 output channels
  const GroupedTask& task;
  const StripPlace& place;
  const RowRing<T, kStride - 1>& ring;
  const ResultStage<T>& stage;
  const GroupWeights<T, kKernel, kPhases, kWidth>& weights;
  const float (&bias)[kTiles][2];
  int vector;  // the warp's group in the chunk

  // Element of the output where pixel number `pixel` of the step starts, or -1.
  template <int kPhase>
  CONVFIRST_DEVICE int64_t output_of(int row, int pixel) const {
    const Convolution& conv = task.conv;
    int y = row + pixel / task.plan.tile_columns, x = place.column + pixel % task.plan.tile_columns;
    if (y >= place.end_row) return -1;
    if constexpr (kPhases) y = 2 * y + kPhase / 2 - conv.window.top, x = 2 * x + kPhase % 2 - conv.window.left;
    if (y < 0 || y >= conv.p || x < 0 || x >= conv.q) return -1;
    return ((place.image * conv.p + y) * conv.q + x) * conv.k;
  }

  template <int kPhase>
  CONVFIRST_DEVICE void multiply(int row, int top) const {
    const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
    const int channel = place.chunk * kGroupedChunk + vector * kWidth + 2 * (lane % 4);
    for (int tile = warp / task.groups; tile < kStepPixels / kTilePixels; tile += kGroupedWarps / task.groups) {
      const int own = tile * kTilePixels + lane % kTilePixels;
      const int y = own / task.plan.tile_columns, x = own % task.plan.tile_columns;
      float d[kTiles][4] = {};
      multiply_taps<T, kKernel, kPhases, kPhase>(weights, ring, ring.slot_of(top + y * kStride), x * kStride, vector,
                                                 d);
      const int first = tile * kTilePixels + lane / 4;
      CONVFIRST_UNROLL
      for (int j = 0; j < kTiles; ++j) {
        if constexpr (!kPhases) {
          int64_t at[2] = {output_of<kPhase>(row, first), output_of<kPhase>(row, first + 8)};
          CONVFIRST_UNROLL
          for (int i = 0; i < 2; ++i) at[i] = at[i] < 0 ? at[i] : at[i] + channel + 8 * j;
          finish_results<T>(task.conv, bias[j], at, d[j]);
        }
        const int own_vector = vector * kTiles + j, pair = 2 * (lane % 4);
        (stage.at(first, own_vector) + pair).template store_vector<2>(0, narrow<T>({d[j][0], d[j][1]}));
        (stage.at(first + 8, own_vector) + pair).template store_vector<2>(0, narrow<T>({d[j][2], d[j][3]}));
      }
    }
  }

  template <int kPhase>
  CONVFIRST_DEVICE void store(int row) const {
    for (int i = static_cast<int>(threadIdx.x); i < kStepPixels * kVectors; i += kGroupedThreads) {
      const int pixel = i / kVectors, channel = place.chunk * kGroupedChunk + i % kVectors * 8;
      const int64_t at = output_of<kPhase>(row, pixel);
      if (at < 0 || channel >= task.conv.k) continue;
      const auto values = stage.at(pixel, i % kVectors).template load_vector<8>(0);
      Global<T>(task.conv.output).template store_vector<8>(at + channel, values);
    }
  }

  // All phases; the barrier before the first one is the caller's.
  template <int kPhase = 0>
  CONVFIRST_DEVICE void run(int row, int top, bool active) const {
    if (active) multiply<kPhase>(row, top);
    __syncthreads();  // the stage is full
    store<kPhase>(row);
    if constexpr (kPhase + 1 < Taps<kKernel, kPhases>::kCount) {
      __syncthreads();  // and empty again
      run<kPhase + 1>(row, top, active);
    }
  }
};

// For kPhases, conv's input is the gradient and p, q, k those of the result; rows and columns of a strip are pairs.
template <class T, int kKernel, int kStride, bool kPhases, int kWidth>
__global__ void __launch_bounds__(kGroupedThreads, 2) grouped_kernel(const CONVFIRST_GRID_CONSTANT GroupedTask task) {
  constexpr int kReach = (kKernel - 1) / 2;
  const Convolution& conv = task.conv;
  const StripPlan& plan = task.plan;
  const StripPlace place(plan, kPhases ? ceil_div(conv.p + conv.window.top, 2) : conv.p);
  const int warp = static_cast<int>(threadIdx.x) / kWarp, vector = warp % task.groups;
  const int channel = place.chunk * kGroupedChunk, group = channel / kWidth + vector;
  const int step_rows = plan.step_rows(), window_rows = (step_rows - 1) * kStride + (kPhases ? kReach + 1 : kKernel);
  const int origin = kPhases ? place.row - kReach : place.row * kStride - conv.window.top;
  const ResultStage<T> stage = {shared_memory<T>()};
  const RowRing<T, kStride - 1> ring = {stage.memory + kStepPixels * kGroupedChunk,
                                        Global<const T>(conv.input) + place.image * conv.h * conv.w * conv.c,
                                        conv.h,
                                        conv.w,
                                        conv.c,
                                        channel,
                                        kPhases ? place.column - kReach : place.column * kStride - conv.window.left,
                                        plan.ring_columns,
                                        plan.ring_slots,
                                        origin};
  ring.fetch(origin, window_rows);
  commit_copies();
  const bool active = group * kWidth < conv.k;
  GroupWeights<T, kKernel, kPhases, kWidth> weights = {};
  float bias[kWidth / 8][2] = {};
  if (active) {
    weights.load(task, group);
    const int own = group * kWidth + 2 * (static_cast<int>(threadIdx.x) % 4);
    CONVFIRST_UNROLL
    for (int j = 0; j < kWidth / 8; ++j) {
      if (conv.bias.data) bias[j][0] = load_bias<T>(conv.bias, conv.weights, own + 8 * j);
      if (conv.bias.data) bias[j][1] = load_bias<T>(conv.bias, conv.weights, own + 8 * j + 1);
    }
  }
  const GroupedStep<T, kKernel, kStride, kPhases, kWidth> step = {task, place, ring, stage, weights, bias, vector};
  for (int row = place.row, top = origin; row < place.end_row; row += step_rows, top += step_rows * kStride) {
    wait_copies<0>();
    __syncthreads();  // the rows have come; those of the step before and its results are no longer read
    if (row + step_rows < place.end_row) ring.fetch(top + window_rows, step_rows * kStride);
    commit_copies();
    step.run(row, top, active);
  }
  wait_copies<0>();
}

}  // namespace convfirst::cuda
