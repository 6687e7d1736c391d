// Depthwise convolution with any window, dilation, channel multiplier, channel count and alignment: one thread an
// element, neighbours along the channels. Reads hit the L1 cache; 2 R S FLOPs an output element.
#pragma once

#include "depthwise_conv2d.h"

namespace convfirst::cuda {

constexpr int kGenericThreads = 256;

// Element `at` of an NHWC tensor of `channels` channels and h x w pixels.
struct Element {
  int channel, x, y;
  int64_t image;
  CONVFIRST_DEVICE Element(int64_t at, int channels, int h, int w) {
    channel = static_cast<int>(at % channels), at /= channels;
    x = static_cast<int>(at % w), at /= w;
    y = static_cast<int>(at % h);
    image = at / h;
  }
};

template <class T>
__global__ void __launch_bounds__(kGenericThreads, 4)
    depthwise_generic_forward_kernel(const CONVFIRST_GRID_CONSTANT Convolution conv) {
  const int64_t at = int64_t{blockIdx.x} * kGenericThreads + threadIdx.x;
  if (at >= static_cast<int64_t>(conv.n) * conv.p * conv.q * conv.k) return;
  const Element out(at, conv.k, conv.p, conv.q);
  const Window& window = conv.window;
  const Global<const T> input(conv.input);
  const int channel = out.channel / (conv.k / conv.c);
  float sum = 0;
  for (int r = 0; r < window.kernel_h; ++r) {
    const int y = out.y * window.stride_h - window.top + r * window.dilation_h;
    if (y < 0 || y >= conv.h) continue;
    for (int s = 0; s < window.kernel_w; ++s) {
      const int x = out.x * window.stride_w - window.left + s * window.dilation_w;
      if (x < 0 || x >= conv.w) continue;
      const float weight = to_float(load_weight<T>(conv.weights, out.channel, 0, r * window.kernel_w + s));
      sum += weight * to_float(input.load(((out.image * conv.h + y) * conv.w + x) * conv.c + channel));
    }
  }
  if (conv.bias.data) sum += load_bias<T>(conv.bias, conv.weights, out.channel);
  float activated[1] = {sum};
  activate(activated, conv.activation);
  sum = activated[0];
  if (conv.residual.data) sum += to_float(Global<const T>(conv.residual).load(at));
  Global<T>(conv.output).store(at, from_float<T>(sum));
}

// The output index whose window's element `tap` lies on input index i, or -1.
CONVFIRST_DEVICE int output_index(int i, int before, int tap, int dilation, int stride, int outputs) {
  const int scaled = i + before - tap * dilation;
  if (scaled < 0 || scaled % stride) return -1;
  return scaled / stride < outputs ? scaled / stride : -1;
}

template <class T>
__global__ void __launch_bounds__(kGenericThreads, 4)
    depthwise_generic_data_grad_kernel(const CONVFIRST_GRID_CONSTANT Convolution conv) {
  const int64_t at = int64_t{blockIdx.x} * kGenericThreads + threadIdx.x;
  if (at >= static_cast<int64_t>(conv.n) * conv.h * conv.w * conv.c) return;
  const Element in(at, conv.c, conv.h, conv.w);
  const Window& window = conv.window;
  const Global<const T> grad(conv.output);
  const int multiplier = conv.k / conv.c;
  float sum = 0;
  for (int r = 0; r < window.kernel_h; ++r) {
    const int p = output_index(in.y, window.top, r, window.dilation_h, window.stride_h, conv.p);
    for (int s = 0; s < window.kernel_w && p >= 0; ++s) {
      const int q = output_index(in.x, window.left, s, window.dilation_w, window.stride_w, conv.q);
      for (int i = 0; i < multiplier && q >= 0; ++i) {
        const int k = in.channel * multiplier + i;
        const float weight = to_float(load_weight<T>(conv.weights, k, 0, r * window.kernel_w + s));
        sum += weight * to_float(grad.load(((in.image * conv.p + p) * conv.q + q) * conv.k + k));
      }
    }
  }
  Global<T>(conv.input).store(at, from_float<T>(sum));
}

}  // namespace convfirst::cuda
