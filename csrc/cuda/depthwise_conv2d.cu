// Chooses and launches the depthwise kernels, forward and for the data gradient.
#include "depthwise_conv2d.cuh"

#include "depthwise_generic.cuh"
#include "dispatch.cuh"

namespace convfirst::cuda {
namespace {

template <class T, int kKernel>
LaunchShape shape_of(const Convolution& conv, const StripPlan& plan) {
  const int64_t weights = kKernel * kKernel * kChunk<T> * sizeof(T);
  return {dim3(static_cast<unsigned>(plan.blocks(conv.n)), 1, 1), kDepthwiseThreads,
          RowRing<T>::bytes(plan.ring_columns, plan.ring_slots) + weights, 1};
}

template <class T, int kKernel, int kStride>
const char* launch_forward(const Convolution& conv, bool flipped, Stream stream) {
  const auto needs = [](int columns) {
    const int step = kStepPixels / columns;
    return RingNeeds{(columns - 1) * kStride + kKernel, (step - 1) * kStride + kKernel, step * kStride};
  };
  const StripPlan plan = plan_strips(conv.n, conv.p, conv.q, ceil_div(conv.k, kChunk<T>), kColumnBytes, needs);
  return launch(depthwise_forward_kernel<T, kKernel, kStride>, shape_of<T, kKernel>(conv, plan),
                DepthwiseTask{conv, plan, flipped}, stream);
}

template <class T, int kKernel>
const char* launch_strided_data_grad(const Convolution& conv, Stream stream) {
  const int rows = conv.h + conv.window.top, columns = conv.w + conv.window.left;
  const auto needs = [](int tile) {
    const int step = kStepPixels / tile / 2, reach = (kKernel - 1) / 2;
    return RingNeeds{tile / 2 + reach, step + reach, step};
  };
  const StripPlan plan = plan_strips(conv.n, rows, columns, ceil_div(conv.c, kChunk<T>), kColumnBytes, needs);
  return launch(depthwise_strided_data_grad_kernel<T, kKernel>, shape_of<T, kKernel>(conv, plan),
                DepthwiseTask{conv, plan, false}, stream);
}

template <class T>
bool fits_vectors(const Convolution& conv) {
  return conv.k == conv.c && conv.c % kVector<T> == 0 && is_aligned(conv.input) && is_aligned(conv.output) &&
         is_aligned(conv.residual);
}

// The gradient at stride 1 is a convolution with the flipped kernel.
Convolution mirrored(const Convolution& conv) {
  Convolution grad = conv;
  grad.h = conv.p, grad.w = conv.q, grad.p = conv.h, grad.q = conv.w;
  grad.input = conv.output, grad.output = conv.input;
  grad.window.top = conv.window.kernel_h - 1 - conv.window.top;
  grad.window.left = conv.window.kernel_w - 1 - conv.window.left;
  grad.bias = grad.residual = {};
  grad.activation = Activation::kIdentity;
  return grad;
}

dim3 blocks_for(int64_t elements) {
  return dim3(static_cast<unsigned>(ceil_div(elements, int64_t{kGenericThreads})), 1, 1);
}

}  // namespace

const char* depthwise_forward(const Convolution& conv, Stream stream) {
  return for_storage(conv.storage, [&](auto type) {
    using T = decltype(type);
    for (const int stride : {1, 2}) {
      if (!fits_vectors<T>(conv)) break;
      if (conv.window.is_square(3, stride)) {
        return stride == 1 ? launch_forward<T, 3, 1>(conv, false, stream)
                           : launch_forward<T, 3, 2>(conv, false, stream);
      }
      if (conv.window.is_square(5, stride)) {
        return stride == 1 ? launch_forward<T, 5, 1>(conv, false, stream)
                           : launch_forward<T, 5, 2>(conv, false, stream);
      }
      if (conv.window.is_square(7, stride)) {
        return stride == 1 ? launch_forward<T, 7, 1>(conv, false, stream)
                           : launch_forward<T, 7, 2>(conv, false, stream);
      }
    }
    return launch(depthwise_generic_forward_kernel<T>, {blocks_for(conv.outputs()), kGenericThreads}, conv, stream);
  });
}

const char* depthwise_data_grad(const Convolution& conv, Stream stream) {
  return for_storage(conv.storage, [&](auto type) {
    using T = decltype(type);
    if (fits_vectors<T>(conv)) {
      if (conv.window.is_square(3, 1)) return launch_forward<T, 3, 1>(mirrored(conv), true, stream);
      if (conv.window.is_square(5, 1)) return launch_forward<T, 5, 1>(mirrored(conv), true, stream);
      if (conv.window.is_square(7, 1)) return launch_forward<T, 7, 1>(mirrored(conv), true, stream);
      if (conv.window.is_square(3, 2)) return launch_strided_data_grad<T, 3>(conv, stream);
      if (conv.window.is_square(5, 2)) return launch_strided_data_grad<T, 5>(conv, stream);
      if (conv.window.is_square(7, 2)) return launch_strided_data_grad<T, 7>(conv, stream);
    }
    return launch(depthwise_generic_data_grad_kernel<T>, {blocks_for(conv.inputs()), kGenericThreads}, conv, stream);
  });
}

}  // namespace convfirst::cuda
