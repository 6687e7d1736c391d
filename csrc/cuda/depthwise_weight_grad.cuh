// Weight gradient of a depthwise convolution: fp32 sums of slices of the batch, then their sum in a fixed order.
//
// Tile: as forward, but a thread keeps the K sums of one kernel row for 16 bytes of channels, so a block has
// 8 vectors x K kernel rows x cells threads; the cells' sums meet in shared memory at the end. Layout: NHWC, 16-byte
// aligned; workspace [slice][tap][channel].
//
// Cost: 2 K^2 FLOPs an element of the output's gradient; input and gradient once from DRAM, plus halos from L2. A step
// of a cell reads 4 + 3 stride + K vectors from shared memory for 4 K vector products: 11/12 a product at 3x3, 14/28 at
// 7x7.
//
// Prediction for an H200 at stride 1 in fp16, for 4 KB of DRAM traffic: 3x3 takes 290 FMA + 270 conversions and loads,
// 140 clocks of an SM, 6.5 TB/s, so the memory's 4.3 TB/s bound it; 5x5 335 clocks, 2.7 TB/s, and 7x7 610 clocks,
// 1.5 TB/s, are bound by instructions.
#pragma once

#include "depthwise_generic.cuh"
#include "strip_plan.cuh"

namespace convfirst::cuda {

constexpr int kGradColumns = 4;  // of a cell

// Cells of a block: fewer for large kernels, whose threads are many and hold many sums.
__host__ __device__ constexpr int grad_cells(int kernel) { return kernel == 7 ? 4 : 8; }
__host__ __device__ constexpr int grad_threads(int kernel) { return kVectors * kernel * grad_cells(kernel); }
// Blocks of a multiprocessor at least, which leaves 112, 204 and 144 registers a thread.
__host__ __device__ constexpr int grad_blocks(int kernel) { return kernel == 3 ? 3 : kernel == 5 ? 1 : 2; }

struct WeightGradPlan {
  int chunks, slices;
  int column_tiles, strips, units;  // units = images x strips x column tiles, shared by the slices
  int cell_columns, strip_rows;
  int input_columns, input_slots, grad_slots;
};

struct WeightGradTask {
  Convolution conv;
  WeightGradPlan plan;
  Buffer workspace;
};

// One unit: a strip of rows, a tile of columns of an image.
template <class T, int kKernel, int kStride>
struct WeightGradUnit {
  static constexpr int kV = kVector<T>, kSpan = (kGradColumns - 1) * kStride + kKernel;
  const WeightGradTask& task;
  Shared<T> memory;
  int channel, vector, kernel_row, cell;

  CONVFIRST_DEVICE RowRing<T> ring(bool of_input, int64_t image, int row, int column) const {
    const Convolution& conv = task.conv;
    const WeightGradPlan& plan = task.plan;
    const int tile = plan.cell_columns * kGradColumns;
    if (!of_input) {
      return {memory + plan.input_columns * plan.input_slots * kChunk<T>,
              Global<const T>(conv.output) + image * conv.p * conv.q * conv.k,
              conv.p,
              conv.q,
              conv.k,
              channel,
              column,
              tile,
              plan.grad_slots,
              row};
    }
    return {memory,
            Global<const T>(conv.input) + image * conv.h * conv.w * conv.c,
            conv.h,
            conv.w,
            conv.c,
            channel,
            column * kStride - conv.window.left,
            plan.input_columns,
            plan.input_slots,
            row * kStride - conv.window.top};
  }

  CONVFIRST_DEVICE void add_cell(const RowRing<T>& input, const RowRing<T>& grad, int row, int top, int columns_left,
                                 float (&sums)[kKernel][kV]) const {
    const int cell_x = cell % task.plan.cell_columns * kGradColumns, cell_y = cell / task.plan.cell_columns;
    const int grad_slot = grad.slot_of(row + cell_y), input_slot = input.slot_of(top + cell_y * kStride + kernel_row);
    float g[kGradColumns][kV];
    CONVFIRST_UNROLL
    for (int q = 0; q < kGradColumns; ++q) grad.load(grad_slot, cell_x + q, vector, g[q]);
    CONVFIRST_UNROLL
    for (int x = 0; x < kSpan; ++x) {
      float value[kV];
      input.load(input_slot, cell_x * kStride + x, vector, value);
      CONVFIRST_UNROLL
      for (int q = 0; q < kGradColumns; ++q) {
        const int s = x - q * kStride;
        // Beyond the last column the gradient is zero, but the input may be infinite.
        if (s < 0 || s >= kKernel || cell_x + q >= columns_left) continue;
        CONVFIRST_UNROLL
        for (int i = 0; i < kV; ++i) sums[s][i] += value[i] * g[q][i];
      }
    }
  }

  CONVFIRST_DEVICE void add(int unit, float (&sums)[kKernel][kV]) const {
    const Convolution& conv = task.conv;
    const WeightGradPlan& plan = task.plan;
    const int column = unit % plan.column_tiles * plan.cell_columns * kGradColumns;
    const int first = unit / plan.column_tiles % plan.strips * plan.strip_rows;
    const int end = first + plan.strip_rows < conv.p ? first + plan.strip_rows : conv.p;
    const int64_t image = unit / (plan.column_tiles * plan.strips);
    const int step = grad_cells(kKernel) / plan.cell_columns, window_rows = (step - 1) * kStride + kKernel;
    const RowRing<T> input = ring(true, image, first, column), grad = ring(false, image, first, column);
    __syncthreads();  // the unit before is no longer read
    input.fetch(input.origin, window_rows);
    grad.fetch(first, step);
    commit_copies();
    for (int row = first, top = input.origin; row < end; row += step, top += step * kStride) {
      wait_copies<0>();
      __syncthreads();  // the rows have come, and those of the step before are no longer read
      if (row + step < end) {
        input.fetch(top + window_rows, step * kStride);
        grad.fetch(row + step, step);
      }
      commit_copies();
      if (row + cell / plan.cell_columns < end) add_cell(input, grad, row, top, conv.q - column, sums);
    }
    wait_copies<0>();
  }
};

// Shared memory at the end: fp32 sums [cell][tap][channel].
template <class T, int kKernel, int kStride>
__global__ void __launch_bounds__(grad_threads(kKernel), grad_blocks(kKernel))
    depthwise_weight_grad_kernel(const CONVFIRST_GRID_CONSTANT WeightGradTask task) {
  constexpr int kV = kVector<T>, kCells = grad_cells(kKernel), kOfCell = kKernel * kKernel * kChunk<T>;
  const int i = static_cast<int>(threadIdx.x), vector = i % kVectors;
  const int kernel_row = i / kVectors % kKernel, cell = i / (kVectors * kKernel);
  const int channel = static_cast<int>(blockIdx.x) % task.plan.chunks * kChunk<T>;
  const int slice = static_cast<int>(blockIdx.x) / task.plan.chunks;
  float sums[kKernel][kV] = {};
  const WeightGradUnit<T, kKernel, kStride> units = {task, shared_memory<T>(), channel, vector, kernel_row, cell};
  for (int unit = slice; unit < task.plan.units; unit += task.plan.slices) units.add(unit, sums);
  __syncthreads();
  const Shared<float> of_cells = shared_memory<float>();
  CONVFIRST_UNROLL
  for (int s = 0; s < kKernel; ++s) {
    CONVFIRST_UNROLL
    for (int part = 0; part < kV; part += 4) {
      const int at = cell * kOfCell + (kernel_row * kKernel + s) * kChunk<T> + vector * kV + part;
      of_cells.store_vector<4>(at, {{sums[s][part], sums[s][part + 1], sums[s][part + 2], sums[s][part + 3]}});
    }
  }
  __syncthreads();
  const Global<float> workspace(task.workspace);
  for (int j = i; j < kOfCell; j += grad_threads(kKernel)) {
    const int own = channel + j % kChunk<T>;
    if (own >= task.conv.k) continue;
    float sum = 0;
    for (int c = 0; c < kCells; ++c) sum += of_cells.load(c * kOfCell + j);
    workspace.store((int64_t{slice} * kKernel * kKernel + j / kChunk<T>)*task.conv.k + own, sum);
  }
}

// The same for any window: a thread takes an output channel and a tap and walks over the rows of its slice.
template <class T>
__global__ void __launch_bounds__(kGenericThreads)
    depthwise_generic_weight_grad_kernel(const CONVFIRST_GRID_CONSTANT WeightGradTask task) {
  const Convolution& conv = task.conv;
  const Window& window = conv.window;
  const int64_t of_slice = static_cast<int64_t>(window.taps()) * conv.k;
  const int64_t at = int64_t{blockIdx.x} * kGenericThreads + threadIdx.x;
  if (at >= of_slice * task.plan.slices) return;
  const int k = static_cast<int>(at % conv.k), tap = static_cast<int>(at / conv.k % window.taps());
  const int r = tap / window.kernel_w, s = tap % window.kernel_w, channel = k / (conv.k / conv.c);
  const Global<const T> input(conv.input), grad(conv.output);
  float sum = 0;
  for (int64_t line = at / of_slice; line < static_cast<int64_t>(conv.n) * conv.p; line += task.plan.slices) {
    const int64_t image = line / conv.p;
    const int y = static_cast<int>(line % conv.p) * window.stride_h - window.top + r * window.dilation_h;
    for (int q = 0; q < conv.q && y >= 0 && y < conv.h; ++q) {
      const int x = q * window.stride_w - window.left + s * window.dilation_w;
      if (x < 0 || x >= conv.w) continue;
      sum += to_float(grad.load((line * conv.q + q) * conv.k + k)) *
             to_float(input.load(((image * conv.h + y) * conv.w + x) * conv.c + channel));
    }
  }
  Global<float>(task.workspace).store(at, sum);
}

}  // namespace convfirst::cuda
