// The sum of partial results in a fixed order: what makes gradients deterministic.
#pragma once

#include "device/launch.cuh"
#include "device/numeric.cuh"

namespace convfirst::cuda {

constexpr int kSumThreads = 256;

struct SliceSum {
  Buffer workspace, result;  // fp32 [slice][tap][channel] to [channel][tap]
  int slices, taps, channels;
};

template <class T>
__global__ void __launch_bounds__(kSumThreads) sum_slices_kernel(const CONVFIRST_GRID_CONSTANT SliceSum task) {
  const int64_t at = int64_t{blockIdx.x} * kSumThreads + threadIdx.x, count = int64_t{task.taps} * task.channels;
  if (at >= count) return;
  const Global<const float> workspace(task.workspace);
  float sum = 0;
  for (int slice = 0; slice < task.slices; ++slice) sum += workspace.load(slice * count + at);
  Global<T>(task.result).store(at % task.channels * task.taps + at / task.channels, from_float<T>(sum));
}

template <class T>
const char* sum_slices(const SliceSum& task, Stream stream) {
  const int64_t count = int64_t{task.taps} * task.channels;
  const dim3 grid(static_cast<unsigned>(ceil_div<int64_t>(count, kSumThreads)), 1, 1);
  return launch(sum_slices_kernel<T>, {grid, kSumThreads}, task, stream);
}

}  // namespace convfirst::cuda
