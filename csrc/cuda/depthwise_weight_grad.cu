// Chooses and launches the depthwise kernels for the weight gradient.
#include "depthwise_weight_grad.cuh"

#include <algorithm>

#include "dispatch.cuh"
#include "slice_sum.cuh"

namespace convfirst::cuda {
namespace {

constexpr int64_t kMostSlices = 256;  // their sums are read again

template <class T>
bool fits_vectors(const Convolution& conv) {
  return conv.k == conv.c && conv.c % kVector<T> == 0 && is_aligned(conv.input) && is_aligned(conv.output);
}

int special_kernel(const Convolution& conv) {
  for (const int kernel : {3, 5, 7}) {
    if (conv.window.is_square(kernel, 1) || conv.window.is_square(kernel, 2)) return kernel;
  }
  return 0;
}

template <class T>
WeightGradPlan plan_weight_grad(const Convolution& conv) {
  WeightGradPlan plan{};
  const int kernel = special_kernel(conv), stride = conv.window.stride_h;
  if (kernel == 0 || !fits_vectors<T>(conv)) {
    const int64_t of_slice = ceil_div<int64_t>(static_cast<int64_t>(conv.window.taps()) * conv.k, kGenericThreads);
    const int64_t lines = static_cast<int64_t>(conv.n) * conv.p;
    plan.slices = static_cast<int>(std::min({lines, kMostSlices, ceil_div(kEnoughBlocks, of_slice)}));
    return plan;
  }
  int64_t best = 0;
  for (const int cells : {8, 4, 2}) {
    const int step = grad_cells(kernel) / cells;
    if (step == 0) continue;
    const int tiles = ceil_div(conv.q, cells * kGradColumns);
    const int64_t work = int64_t{tiles} * cells * ceil_div(conv.p, step) * step;
    if (best == 0 || work < best) best = work, plan.cell_columns = cells, plan.column_tiles = tiles;
  }
  const int step = grad_cells(kernel) / plan.cell_columns, steps = ceil_div(conv.p, step);
  plan.chunks = ceil_div(conv.k, kChunk<T>);
  const int64_t wanted = std::min(kMostSlices, ceil_div<int64_t>(kEnoughBlocks, plan.chunks));
  int of_strip =
      static_cast<int>(ceil_div<int64_t>(steps, ceil_div(wanted, static_cast<int64_t>(conv.n) * plan.column_tiles)));
  plan.input_columns = (plan.cell_columns * kGradColumns - 1) * stride + kernel;
  const int window_rows = (step - 1) * stride + kernel;
  if (RowRing<T>::bytes(plan.input_columns, window_rows + step * stride) > kMostRingBytes) of_strip = 1;
  plan.strip_rows = of_strip * step;
  plan.strips = ceil_div(steps, of_strip);
  plan.units = conv.n * plan.strips * plan.column_tiles;
  plan.slices = static_cast<int>(std::min<int64_t>(wanted, plan.units));
  plan.input_slots = window_rows + (of_strip > 1 ? step * stride : 0);
  plan.grad_slots = of_strip > 1 ? 2 * step : step;
  return plan;
}

template <class T, int kKernel, int kStride>
const char* launch_special(const WeightGradTask& task, Stream stream) {
  const WeightGradPlan& plan = task.plan;
  const int64_t rings = RowRing<T>::bytes(plan.input_columns, plan.input_slots) +
                        RowRing<T>::bytes(plan.cell_columns * kGradColumns, plan.grad_slots);
  const int64_t sums = int64_t{grad_cells(kKernel)} * kKernel * kKernel * kChunk<T> * sizeof(float);
  const LaunchShape shape = {dim3(static_cast<unsigned>(plan.chunks * plan.slices), 1, 1), grad_threads(kKernel),
                             std::max(rings, sums), 1};
  return launch(depthwise_weight_grad_kernel<T, kKernel, kStride>, shape, task, stream);
}

template <class T>
const char* launch_sums(const WeightGradTask& task, Stream stream) {
  const bool strided = task.conv.window.stride_h == 2;
  if (task.plan.units == 0) {
    const int64_t sums = static_cast<int64_t>(task.conv.window.taps()) * task.conv.k * task.plan.slices;
    const dim3 grid(static_cast<unsigned>(ceil_div<int64_t>(sums, kGenericThreads)), 1, 1);
    return launch(depthwise_generic_weight_grad_kernel<T>, {grid, kGenericThreads}, task, stream);
  }
  switch (special_kernel(task.conv)) {
    case 3: return strided ? launch_special<T, 3, 2>(task, stream) : launch_special<T, 3, 1>(task, stream);
    case 5: return strided ? launch_special<T, 5, 2>(task, stream) : launch_special<T, 5, 1>(task, stream);
    default: return strided ? launch_special<T, 7, 2>(task, stream) : launch_special<T, 7, 1>(task, stream);
  }
}

}  // namespace

int64_t depthwise_weight_grad_floats(const Convolution& conv) {
  const auto plan = for_storage(conv.storage, [&](auto type) { return plan_weight_grad<decltype(type)>(conv); });
  return static_cast<int64_t>(plan.slices) * conv.window.taps() * conv.k;
}

const char* depthwise_weight_grad(const Convolution& conv, Buffer weight_grad, Buffer workspace, Stream stream) {
  return for_storage(conv.storage, [&](auto type) {
    using T = decltype(type);
    const WeightGradTask task = {conv, plan_weight_grad<T>(conv), workspace};
    const char* error = launch_sums<T>(task, stream);
    if (error) return error;
    return sum_slices<T>({workspace, weight_grad, task.plan.slices, conv.window.taps(), conv.k}, stream);
  });
}

}  // namespace convfirst::cuda
