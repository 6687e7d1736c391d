// Chooses and launches the kernels of group width 8, forward and for the data gradient.
#include "grouped_conv2d.cuh"

#include "dispatch.cuh"

namespace convfirst::cuda {
namespace {

// A power of two that all groups of a chunk find place in.
int groups_of_chunk(int channels, int width) {
  const int groups = channels / width, most = kGroupedChunk / width;
  int places = 1;
  while (places < groups && places < most) places *= 2;
  return places;
}

template <class T, int kKernel, int kStride, bool kPhases, int kWidth = 8>
const char* launch_grouped(const Convolution& conv, bool transposed, Stream stream) {
  constexpr int kReach = (kKernel - 1) / 2, kRows = kPhases ? kReach + 1 : kKernel;
  const auto needs = [](int columns) {
    const int step = kStepPixels / columns;
    return RingNeeds{(columns - 1) * kStride + kRows, (step - 1) * kStride + kRows, step * kStride};
  };
  const int rows = kPhases ? ceil_div(conv.p + conv.window.top, 2) : conv.p;
  const int columns = kPhases ? ceil_div(conv.q + conv.window.left, 2) : conv.q;
  const StripPlan plan = plan_strips(conv.n, rows, columns, ceil_div(conv.k, kGroupedChunk), kColumnBytes, needs);
  const int64_t shared = (int64_t{plan.ring_columns} * plan.ring_slots + kStepPixels) * kColumnBytes;
  const LaunchShape shape = {dim3(static_cast<unsigned>(plan.blocks(conv.n)), 1, 1), kGroupedThreads, shared, 1};
  const GroupedTask task = {conv, plan, groups_of_chunk(conv.k, kWidth), transposed};
  return launch(grouped_kernel<T, kKernel, kStride, kPhases, kWidth>, shape, task, stream);
}

// The gradient as a convolution of the output's gradient; at stride 1 with the kernel turned by 180 degrees.
Convolution mirrored(const Convolution& conv) {
  Convolution grad = conv;
  grad.h = conv.p, grad.w = conv.q, grad.c = conv.k;
  grad.p = conv.h, grad.q = conv.w, grad.k = conv.c;
  grad.input = conv.output, grad.output = conv.input;
  if (conv.window.stride_h == 1) {
    grad.window.top = conv.window.kernel_h - 1 - conv.window.top;
    grad.window.left = conv.window.kernel_w - 1 - conv.window.left;
  }
  grad.bias = grad.residual = {};
  grad.activation = Activation::kIdentity;
  return grad;
}

}  // namespace

const char* grouped_reason_against(const Convolution& conv) {
  if (conv.storage == Storage::kFloat32) return "input must have dtype float16 or bfloat16 for tensor cores";
  const int width = conv.weights.group_in;
  if (conv.c != conv.k || (width != 8 && width != 16)) return "groups must have 8 or 16 input and output channels";
  if (width == 16 && !conv.window.is_square(3, 1) && !conv.window.is_square(3, 2)) {
    return "weight must have a 3x3 kernel where groups have 16 channels, stride 1 or 2 and no dilation";
  }
  if (!conv.window.is_square(3, 1) && !conv.window.is_square(3, 2) && !conv.window.is_square(5, 1) &&
      !conv.window.is_square(5, 2)) {
    return "weight must have a 3x3 or 5x5 kernel with stride 1 or 2 in both directions and no dilation";
  }
  if (!is_aligned(conv.input) || !is_aligned(conv.output) || !is_aligned(conv.residual)) {
    return "input and residual must start at a multiple of 16 bytes";
  }
  return nullptr;
}

const char* grouped_forward(const Convolution& conv, Stream stream) {
  const char* reason = grouped_reason_against(conv);
  if (reason) return reason;
  return for_half_storage(conv.storage, [&](auto type) {
    using T = decltype(type);
    if (conv.weights.group_in == 16) {
      return conv.window.stride_h == 1 ? launch_grouped<T, 3, 1, false, 16>(conv, false, stream)
                                       : launch_grouped<T, 3, 2, false, 16>(conv, false, stream);
    }
    if (conv.window.is_square(3, 1)) return launch_grouped<T, 3, 1, false>(conv, false, stream);
    if (conv.window.is_square(3, 2)) return launch_grouped<T, 3, 2, false>(conv, false, stream);
    if (conv.window.is_square(5, 1)) return launch_grouped<T, 5, 1, false>(conv, false, stream);
    return launch_grouped<T, 5, 2, false>(conv, false, stream);
  });
}

const char* grouped_data_grad(const Convolution& conv, Stream stream) {
  const char* reason = grouped_reason_against(conv);
  if (reason) return reason;
  const Convolution grad = mirrored(conv);
  return for_half_storage(conv.storage, [&](auto type) {
    using T = decltype(type);
    if (conv.weights.group_in == 16) {
      return conv.window.stride_h == 1 ? launch_grouped<T, 3, 1, false, 16>(grad, true, stream)
                                       : launch_grouped<T, 3, 1, true, 16>(grad, true, stream);
    }
    if (conv.window.is_square(3, 1)) return launch_grouped<T, 3, 1, false>(grad, true, stream);
    if (conv.window.is_square(3, 2)) return launch_grouped<T, 3, 1, true>(grad, true, stream);
    if (conv.window.is_square(5, 1)) return launch_grouped<T, 5, 1, false>(grad, true, stream);
    return launch_grouped<T, 5, 1, true>(grad, true, stream);
  });
}

}  // namespace convfirst::cuda
