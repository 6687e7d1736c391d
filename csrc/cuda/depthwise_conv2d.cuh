// Depthwise convolution, forward and data gradient: square odd kernels without dilation, stride 1 and 2.
//
// Tile: a block of 128 threads takes one image, 128 bytes of channels (64 fp16, 32 fp32) and 8, 16 or 32 columns, and
// walks down a strip of rows; 16 cells of 4 columns each lie side by side or below each other, 8 lanes take a cell's
// channels. Layout: NHWC, 16-byte aligned, channels a multiple of 16 bytes. Sums are fp32.
//
// Cost of an output element: 2 K^2 FLOPs; its own bytes and the input's once from DRAM, plus halos, which the L2 cache
// serves. A cell reads K (3 stride + K) vectors of 16 bytes and K^2 of weights from shared memory for its 4 K^2
// vector products.
//
// Prediction for an H200 (copy at 4.3 TB/s; 132 SMs at 1.7 GHz, 4 instructions and one 128-byte row of shared memory a
// clock), fp16, stride 1, a warp's step of 128 vectors in and out (4 KB):
//   3x3: 290 FMA + 220 conversions and loads = 130 clocks; 7 TB/s, so the memory's 4.3 TB/s bound it
//   5x5: 800 FMA + 580 = 350 clocks; 2.6 TB/s, bound by instructions at 60% of copy
//   7x7: 1570 FMA + 1070 = 660 clocks; 1.4 TB/s, bound by instructions at 33% of copy
// In fp32 a step of 4 KB has half the FMAs and no conversions, so shared memory binds beyond 3x3: 5x5 at 3.5 TB/s, 7x7
// at 1.9 TB/s.
#pragma once

#include "depthwise_conv2d.h"
#include "strip_plan.cuh"

namespace convfirst::cuda {

constexpr int kCellColumns = 4;
constexpr int kDepthwiseThreads = 128;
constexpr int kDepthwiseBlocks = 4;  // of a multiprocessor at least: 128 registers a thread
static_assert(kDepthwiseThreads / kVectors * kCellColumns == kStepPixels);

struct DepthwiseTask {
  Convolution conv;
  StripPlan plan;
  bool flipped;  // the kernel is turned by 180 degrees
};

// The chunk's weights as [tap][channel], zeros beyond the last channel.
template <class T>
CONVFIRST_DEVICE void stage_weights(Shared<T> to, const DepthwiseTask& task, int channel) {
  const Convolution& conv = task.conv;
  const int taps = conv.window.taps();
  for (int i = static_cast<int>(threadIdx.x); i < taps * kChunk<T>; i += static_cast<int>(blockDim.x)) {
    const int tap = i / kChunk<T>, own = channel + i % kChunk<T>;
    const int source = task.flipped ? taps - 1 - tap : tap;
    to.store(i, own < conv.k ? load_weight<T>(conv.weights, own, 0, source) : from_float<T>(0.0f));
  }
}

template <class T>
CONVFIRST_DEVICE void load_weight_vector(Shared<T> weights, int tap, int vector, float (&w)[kVector<T>]) {
  const auto stored = weights.template load_vector<kVector<T>>(tap * kChunk<T> + vector * kVector<T>);
  CONVFIRST_UNROLL
  for (int i = 0; i < kVector<T>; ++i) w[i] = to_float(stored[i]);
}

// Bias, activation and residual of one vector, and its way to memory.
template <class T>
CONVFIRST_DEVICE void finish_vector(const Convolution& conv, int64_t at, int channel, float (&sum)[kVector<T>]) {
  constexpr int kV = kVector<T>;
  if (conv.bias.data) {
    CONVFIRST_UNROLL
    for (int i = 0; i < kV; ++i) sum[i] += load_bias<T>(conv.bias, conv.weights, channel + i);
  }
  activate(sum, conv.activation);
  if (conv.residual.data) {
    const auto residual = Global<const T>(conv.residual).template load_vector<kV>(at);
    CONVFIRST_UNROLL
    for (int i = 0; i < kV; ++i) sum[i] += to_float(residual[i]);
  }
  Global<T>(conv.output).template store_vector<kV>(at, narrow<T>(sum));
}

// One cell's sums: 4 outputs from K rows of the ring, the first in `slot`.
template <class T, int kKernel, int kStride>
CONVFIRST_DEVICE void sum_cell(const RowRing<T>& ring, Shared<T> weights, int slot, int column, int vector,
                               float (&sums)[kCellColumns][kVector<T>]) {
  constexpr int kV = kVector<T>, kSpan = (kCellColumns - 1) * kStride + kKernel;
  CONVFIRST_NO_UNROLL
  for (int r = 0; r < kKernel; ++r) {
    float w[kKernel][kV];
    CONVFIRST_UNROLL
    for (int s = 0; s < kKernel; ++s) load_weight_vector<T>(weights, r * kKernel + s, vector, w[s]);
    CONVFIRST_UNROLL
    for (int x = 0; x < kSpan; ++x) {
      float value[kV];
      ring.load(slot, column + x, vector, value);
      CONVFIRST_UNROLL
      for (int q = 0; q < kCellColumns; ++q) {
        const int s = x - q * kStride;
        if (s < 0 || s >= kKernel) continue;
        CONVFIRST_UNROLL
        for (int i = 0; i < kV; ++i) sums[q][i] += value[i] * w[s][i];
      }
    }
    slot = slot + 1 == ring.slots ? 0 : slot + 1;
  }
}

template <class T, int kKernel, int kStride>
__global__ void __launch_bounds__(kDepthwiseThreads, kDepthwiseBlocks)
    depthwise_forward_kernel(const CONVFIRST_GRID_CONSTANT DepthwiseTask task) {
  const Convolution& conv = task.conv;
  const StripPlan& plan = task.plan;
  const StripPlace place(plan, conv.p);
  const int vector = static_cast<int>(threadIdx.x) % kVectors, cell = static_cast<int>(threadIdx.x) / kVectors;
  const int cell_x = cell * kCellColumns % plan.tile_columns, cell_y = cell * kCellColumns / plan.tile_columns;
  const int step_rows = plan.step_rows(), channel = place.chunk * kChunk<T>;
  const int window_rows = (step_rows - 1) * kStride + kKernel, origin = place.row * kStride - conv.window.top;
  const Shared<T> weights = shared_memory<T>();
  const int64_t image = place.image * conv.h * conv.w * conv.c;
  const RowRing<T> ring = {weights + kKernel * kKernel * kChunk<T>,
                           Global<const T>(conv.input) + image,
                           conv.h,
                           conv.w,
                           conv.c,
                           channel,
                           place.column * kStride - conv.window.left,
                           plan.ring_columns,
                           plan.ring_slots,
                           origin};
  ring.fetch(origin, window_rows);
  commit_copies();
  stage_weights(weights, task, channel);
  for (int row = place.row, top = origin; row < place.end_row; row += step_rows, top += step_rows * kStride) {
    wait_copies<0>();
    __syncthreads();  // the rows have come, and those of the step before are no longer read
    if (row + step_rows < place.end_row) ring.fetch(top + window_rows, step_rows * kStride);
    commit_copies();
    float sums[kCellColumns][kVector<T>] = {};
    sum_cell<T, kKernel, kStride>(ring, weights, ring.slot_of(top + cell_y * kStride), cell_x * kStride, vector, sums);
    const int p = row + cell_y, own_channel = channel + vector * kVector<T>;
    if (p >= place.end_row || own_channel >= conv.k) continue;
    CONVFIRST_UNROLL
    for (int i = 0; i < kCellColumns; ++i) {
      const int q = place.column + cell_x + i;
      if (q < conv.q)
        finish_vector<T>(conv, ((place.image * conv.p + p) * conv.q + q) * conv.k + own_channel, own_channel, sums[i]);
    }
  }
  wait_copies<0>();
}

// Data gradient at stride 2: of pixel (v - top, u - left) the sum over taps of v's and u's parity of
// grad[(v - r) / 2][(u - s) / 2] w[r][s]. A cell starts at an even u, so every tap of a column is known to the
// compiler.
template <class T, int kKernel>
CONVFIRST_DEVICE void sum_strided_cell(const RowRing<T>& ring, Shared<T> weights, int v, int column, int vector,
                                       float (&sums)[kCellColumns][kVector<T>]) {
  constexpr int kV = kVector<T>, kReach = (kKernel - 1) / 2, kSpan = kReach + kCellColumns / 2;
  CONVFIRST_NO_UNROLL
  for (int r = v & 1; r < kKernel; r += 2) {
    const int slot = ring.slot_of((v - r) / 2);
    float w[kKernel][kV];
    CONVFIRST_UNROLL
    for (int s = 0; s < kKernel; ++s) load_weight_vector<T>(weights, r * kKernel + s, vector, w[s]);
    CONVFIRST_UNROLL
    for (int x = 0; x < kSpan; ++x) {  // the gradient's column u / 2 - kReach + x
      float value[kV];
      ring.load(slot, column + x, vector, value);
      CONVFIRST_UNROLL
      for (int u = 0; u < kCellColumns; ++u) {
        const int s = u + 2 * (kReach - x);
        if (s < 0 || s >= kKernel) continue;
        CONVFIRST_UNROLL
        for (int i = 0; i < kV; ++i) sums[u][i] += value[i] * w[s][i];
      }
    }
  }
}

// Rows and columns are those of the padded input, v and u; a strip starts at an even v.
template <class T, int kKernel>
__global__ void __launch_bounds__(kDepthwiseThreads, kDepthwiseBlocks)
    depthwise_strided_data_grad_kernel(const CONVFIRST_GRID_CONSTANT DepthwiseTask task) {
  constexpr int kReach = (kKernel - 1) / 2;
  const Convolution& conv = task.conv;
  const StripPlan& plan = task.plan;
  const StripPlace place(plan, conv.h + conv.window.top);
  const int vector = static_cast<int>(threadIdx.x) % kVectors, cell = static_cast<int>(threadIdx.x) / kVectors;
  const int cell_x = cell * kCellColumns % plan.tile_columns, cell_y = cell * kCellColumns / plan.tile_columns;
  const int step_rows = plan.step_rows(), channel = place.chunk * kChunk<T>;
  const int window_rows = step_rows / 2 + kReach, origin = place.row / 2 - kReach;
  const Shared<T> weights = shared_memory<T>();
  const RowRing<T> ring = {weights + kKernel * kKernel * kChunk<T>,
                           Global<const T>(conv.output) + place.image * conv.p * conv.q * conv.k,
                           conv.p,
                           conv.q,
                           conv.k,
                           channel,
                           place.column / 2 - kReach,
                           plan.ring_columns,
                           plan.ring_slots,
                           origin};
  ring.fetch(origin, window_rows);
  commit_copies();
  stage_weights(weights, task, channel);
  for (int row = place.row, top = origin; row < place.end_row; row += step_rows, top += step_rows / 2) {
    wait_copies<0>();
    __syncthreads();  // as above
    if (row + step_rows < place.end_row) ring.fetch(top + window_rows, step_rows / 2);
    commit_copies();
    float sums[kCellColumns][kVector<T>] = {};
    sum_strided_cell<T, kKernel>(ring, weights, row + cell_y, cell_x / 2, vector, sums);
    const int y = row + cell_y - conv.window.top, own_channel = channel + vector * kVector<T>;
    if (y < 0 || row + cell_y >= place.end_row || own_channel >= conv.c) continue;
    CONVFIRST_UNROLL
    for (int i = 0; i < kCellColumns; ++i) {
      const int x = place.column + cell_x + i - conv.window.left;
      if (x < 0 || x >= conv.w) continue;
      const int64_t at = ((place.image * conv.h + y) * conv.w + x) * conv.c + own_channel;
      Global<T>(conv.input).template store_vector<kVector<T>>(at, narrow<T>(sums[i]));
    }
  }
  wait_copies<0>();
}

}  // namespace convfirst::cuda
