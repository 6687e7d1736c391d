// Chooses and launches the kernels of group width 8 for the weight gradient.
#include "grouped_weight_grad.cuh"

#include <algorithm>

#include "dispatch.cuh"
#include "slice_sum.cuh"

namespace convfirst::cuda {
namespace {

constexpr int64_t kMostSlices = 256;  // their sums are read again

GroupedGradTask plan_weight_grad(const Convolution& conv) {
  const int kernel = conv.window.kernel_h, stride = conv.window.stride_h;
  const auto needs = [=](int columns) {
    const int step = kStepPixels / columns;
    return RingNeeds{(columns - 1) * stride + kernel, (step - 1) * stride + kernel, step * stride};
  };
  GroupedGradTask task{};
  task.conv = conv;
  task.plan = plan_strips(conv.n, conv.p, conv.q, ceil_div(conv.k, kGradChunk), kColumnBytes, needs);
  task.units = conv.n * task.plan.strips * task.plan.column_tiles;
  const int64_t wanted = std::min(kMostSlices, ceil_div<int64_t>(kEnoughBlocks, task.plan.chunks));
  task.slices = static_cast<int>(std::min<int64_t>(wanted, task.units));
  return task;
}

template <class T, int kKernel, int kStride, int kWidth = 8>
const char* launch_sums(const GroupedGradTask& task, Stream stream) {
  const StripPlan& plan = task.plan;
  const int64_t columns = int64_t{plan.ring_columns} * plan.ring_slots + 2 * kStepPixels;
  const LaunchShape shape = {dim3(static_cast<unsigned>(plan.chunks * task.slices), 1, 1), kGroupedGradThreads,
                             columns * kColumnBytes, 1};
  return launch(grouped_weight_grad_kernel<T, kKernel, kStride, kWidth>, shape, task, stream);
}

}  // namespace

int64_t grouped_weight_grad_floats(const Convolution& conv) {
  return int64_t{plan_weight_grad(conv).slices} * conv.k * conv.weights.group_in * conv.window.taps();
}

const char* grouped_weight_grad(const Convolution& conv, Buffer weight_grad, Buffer workspace, Stream stream) {
  const char* reason = grouped_reason_against(conv);
  if (reason) return reason;
  GroupedGradTask task = plan_weight_grad(conv);
  task.workspace = workspace;
  return for_half_storage(conv.storage, [&](auto type) {
    using T = decltype(type);
    const bool strided = conv.window.stride_h == 2;
    const auto run = conv.weights.group_in == 16 ? strided ? launch_sums<T, 3, 2, 16> : launch_sums<T, 3, 1, 16>
                     : conv.window.kernel_h == 3 ? strided ? launch_sums<T, 3, 2> : launch_sums<T, 3, 1>
                     : strided                   ? launch_sums<T, 5, 2>
                                                 : launch_sums<T, 5, 1>;
    const char* error = run(task, stream);
    if (error) return error;
    return sum_slices<T>({workspace, weight_grad, task.slices, 1, conv.k * conv.weights.group_in * conv.window.taps()},
                         stream);
  });
}

}  // namespace convfirst::cuda
