// Weight gradient of a convolution of group width 8 or 16 on tensor cores: fp32 sums of slices of the batch, then their
// sum in a fixed order.
//
// Tile: as forward; a warp takes one group and sums over 16 pixels a product. A (16 x 16 pixels) is the input
// transposed, the 8 input channels that one tap sees above those of the next tap; B (16 pixels x 8) is the output's
// gradient, so D holds the two taps' 8 x 8 gradients. All K^2 of them stay in registers. Layout: NHWC, 16-byte aligned;
// workspace [slice][o][i][tap]. Pixels beyond the last column have a gradient of zero, so infinite inputs there give
// NaN.
//
// Cost: 16 K^2 FLOPs a pixel and channel; input and gradient once from DRAM, plus halos from L2. Prediction for an H200
// at stride 1, for 16 pixels of a group (512 bytes of traffic): 3x3 reads 22 rows of 128 bytes of shared memory and
// writes 4, 26 clocks, 4.4 TB/s: bound by the memory's 4.3 TB/s; 5x5 58 clocks, 2.0 TB/s, bound by shared memory.
#pragma once

#include "device/mma.cuh"
#include "grouped_conv2d.h"
#include "strip_plan.cuh"

namespace convfirst::cuda {

constexpr int kGroupedGradWarps = 8;
constexpr int kGroupedGradThreads = kGroupedGradWarps * kWarp;
constexpr int kGradPixels = 16;  // of a product
constexpr int kGradChunk = kVectors * 8;

struct GroupedGradTask {
  Convolution conv;
  StripPlan plan;
  int units, slices;  // units = images x strips x column tiles, shared by the slices
  Buffer workspace;
};

template <class T, int kKernel, int kStride, int kWidth>
struct GroupedGradUnit {
  static constexpr int kTaps = kKernel * kKernel, kPairs = (kTaps + 1) / 2;
  static constexpr int kSums = kWidth == 8 ? kPairs : 2 * kTaps;  // at width 16 [tap][half of the output channels]
  using InputRing = RowRing<T, kStride - 1>;
  using GradRing = RowRing<T, 0>;
  const GroupedGradTask& task;
  Shared<T> memory;
  int channel, vector;  // of the chunk, of the warp's group in it
  bool active;

  // 16 pixels from `tile` on at width 16: A is what a tap sees, both halves of the input channels one above the other.
  CONVFIRST_DEVICE void add_wide_tile(const InputRing& input, const GradRing& grad, int tile, int row, int top,
                                      float (&sums)[kSums][4]) const {
    const int lane = static_cast<int>(threadIdx.x) % kWarp, columns = task.plan.tile_columns;
    const int of_grad = tile + lane % kGradPixels;
    unsigned b[4];
    load_matrices<true>(b, grad.at(grad.slot_of(row + of_grad / columns), of_grad % columns, 2 * vector + lane / 16));
    const unsigned low[2] = {b[0], b[1]}, high[2] = {b[2], b[3]};
    const int own = tile + lane % 8 + lane / 16 * 8, half = lane / 8 % 2;
    const int x = own % columns * kStride, slot = input.slot_of(top + own / columns * kStride);
    CONVFIRST_UNROLL
    for (int i = 0; i < kTaps; ++i) {
      const int y = slot + i / kKernel;
      unsigned a[4];
      load_matrices<true>(a, input.at(y >= input.slots ? y - input.slots : y, x + i % kKernel, 2 * vector + half));
      multiply_16x8x16<T>(sums[2 * i], a, low);
      multiply_16x8x16<T>(sums[2 * i + 1], a, high);
    }
  }

  // 16 pixels from `tile` on: their gradients, and for each pair of taps what these see.
  CONVFIRST_DEVICE void add_tile(const InputRing& input, const GradRing& grad, int tile, int row, int top,
                                 float (&sums)[kSums][4]) const {
    const int lane = static_cast<int>(threadIdx.x) % kWarp, columns = task.plan.tile_columns;
    const int of_grad = tile + lane % kGradPixels;
    unsigned b[2];
    load_matrices<true>(b, grad.at(grad.slot_of(row + of_grad / columns), of_grad % columns, vector));
    // Matrices of A: pixels 0 to 7 of a tap, of the next one, then pixels 8 to 15.
    const int own = tile + lane % 8 + lane / 16 * 8, next = lane / 8 % 2;
    const int x = own % columns * kStride, slot = input.slot_of(top + own / columns * kStride);
    CONVFIRST_UNROLL
    for (int i = 0; i < kPairs; ++i) {
      const int first = 2 * i, second = 2 * i + 1 < kTaps ? 2 * i + 1 : 2 * i;
      const int r = next ? second / kKernel : first / kKernel, s = next ? second % kKernel : first % kKernel;
      unsigned a[4];
      load_matrices<true>(a, input.at(slot + r >= input.slots ? slot + r - input.slots : slot + r, x + s, vector));
      multiply_16x8x16<T>(sums[i], a, b);
    }
  }

  CONVFIRST_DEVICE void add(int unit, float (&sums)[kSums][4]) const {
    const Convolution& conv = task.conv;
    const StripPlan& plan = task.plan;
    const int column = unit % plan.column_tiles * plan.tile_columns;
    const int first = unit / plan.column_tiles % plan.strips * plan.strip_rows;
    const int end = first + plan.strip_rows < conv.p ? first + plan.strip_rows : conv.p;
    const int64_t image = unit / (plan.column_tiles * plan.strips);
    const int step = plan.step_rows(), window_rows = (step - 1) * kStride + kKernel;
    const int origin = first * kStride - conv.window.top, slots = plan.ring_slots > window_rows ? 2 * step : step;
    const InputRing input = {memory,
                             Global<const T>(conv.input) + image * conv.h * conv.w * conv.c,
                             conv.h,
                             conv.w,
                             conv.c,
                             channel,
                             column * kStride - conv.window.left,
                             plan.ring_columns,
                             plan.ring_slots,
                             origin};
    const GradRing grad = {memory + plan.ring_columns * plan.ring_slots * kGradChunk,
                           Global<const T>(conv.output) + image * conv.p * conv.q * conv.k,
                           end,
                           conv.q,
                           conv.k,
                           channel,
                           column,
                           plan.tile_columns,
                           slots,
                           first};
    __syncthreads();  // the unit before is no longer read
    input.fetch(origin, window_rows);
    grad.fetch(first, step);
    commit_copies();
    for (int row = first, top = origin; row < end; row += step, top += step * kStride) {
      wait_copies<0>();
      __syncthreads();  // the rows have come, and those of the step before are no longer read
      if (row + step < end) {
        input.fetch(top + window_rows, step * kStride);
        grad.fetch(row + step, step);
      }
      commit_copies();
      for (int tile = 0; tile < kStepPixels && active; tile += kGradPixels) {
        if constexpr (kWidth == 8) {
          add_tile(input, grad, tile, row, top, sums);
        } else {
          add_wide_tile(input, grad, tile, row, top, sums);
        }
      }
    }
    wait_copies<0>();
  }
};

template <class T, int kKernel, int kStride, int kWidth>
__global__ void __launch_bounds__(kGroupedGradThreads, 2)
    grouped_weight_grad_kernel(const CONVFIRST_GRID_CONSTANT GroupedGradTask task) {
  using Unit = GroupedGradUnit<T, kKernel, kStride, kWidth>;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, vector = static_cast<int>(threadIdx.x) / kWarp;
  const int chunk = static_cast<int>(blockIdx.x) % task.plan.chunks,
            slice = static_cast<int>(blockIdx.x) / task.plan.chunks;
  const int channel = chunk * kGradChunk, own = channel + vector * kWidth;
  float sums[Unit::kSums][4] = {};
  const Unit units = {task, shared_memory<T>(), channel, vector, vector * kWidth < kGradChunk && own < task.conv.k};
  for (int unit = slice; unit < task.units; unit += task.slices) units.add(unit, sums);
  if (!units.active) return;
  const Global<float> workspace = Global<float>(task.workspace) + int64_t{slice} * task.conv.k * kWidth * Unit::kTaps;
  CONVFIRST_UNROLL
  for (int i = 0; i < Unit::kSums; ++i) {
    CONVFIRST_UNROLL
    for (int j = 0; j < 4; ++j) {
      const int tap = kWidth == 8 ? 2 * i + j / 2 : i / 2, input = lane / 4 + (kWidth == 8 ? 0 : j / 2 * 8);
      const int output = own + (kWidth == 8 ? 0 : i % 2 * 8) + 2 * (lane % 4) + j % 2;
      if (tap < Unit::kTaps) workspace.store((output * kWidth + input) * Unit::kTaps + tap, sums[i][j]);
    }
  }
}

}  // namespace convfirst::cuda
