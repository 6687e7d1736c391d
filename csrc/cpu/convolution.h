// What every single convolution is called with, after its arguments were checked.
#pragma once

#include "../shapes.h"
#include "../tiling/conv_plan.h"
#include "multiply.h"
#include "tensor.h"

namespace convfirst {

struct ConvolutionShape {
  ImageView in;
  Window window;
  int64_t groups;
  int64_t out_c, out_h, out_w;
  Activation activation;
  Activation sum_activation;  // of the sum with the residual: one that is a clamp

  int64_t group_in() const { return in.c / groups; }
};

template <class E>
struct Convolution;
template <class E>
void run_direct(const Convolution<E>& conv);

// Computed in E, whatever the storage of input and output; fp16 arithmetic takes fp16 storage only.
template <class E>
struct Convolution : ConvolutionShape {
  const E* weights;      // packed [block][kh][kw][k][lane]
  const E* bias;         // padded to whole blocks
  const void* residual;  // nullptr: none; NHWC like out
  void* out;
  void (*run)(const Convolution& conv);
  bool out_is_scratch = false;  // read again while a cache holds it

  static constexpr int64_t kLanes = kLanesOf<E>;
  int64_t blocks() const { return ceil_div(out_c, kLanes); }
  int64_t lanes(int64_t block) const { return out_c - block * kLanes < kLanes ? out_c - block * kLanes : kLanes; }
  // Whether the driver copies its input, so that it takes any layout.
  bool reads_planar() const { return run == &run_direct<E> && groups == 1 && !window.is_pointwise(); }
  bool stores_elements() const { return in.storage == StorageOf<E>::value; }
  ConvShape shape() const {
    const int64_t padded_w = (out_w - 1) * window.stride_w + window.span_w();
    return {in.n, in.h, in.w, in.c, out_h, out_w, out_c, window.span_h(), window.stride_h, padded_w, sizeof(E), kLanes};
  }
  // Whether a kernel can store its results in place, clamped.
  bool stores_directly() const { return stores_elements() && clamp_of(activation).exact; }
  bool streams() const {
    if (out_is_scratch || residual || !stores_directly()) return false;
    return streams_to(out, in.n * out_h * out_w, out_c, sizeof(E));
  }
};

// One channel block at a time: depthwise with any multiplier, and group width 8.
template <class E>
void run_spatial(const Convolution<E>& conv);

// All input channels of a group at a time: pointwise, dense, and group widths that are multiples of a block.
template <class E>
void run_direct(const Convolution<E>& conv);

// Output rows [y0, y1) of one image in the calling thread; for windows beyond 1x1.
template <class E>
void run_direct_rows(const Convolution<E>& conv, int64_t image, int64_t y0, int64_t y1);

}  // namespace convfirst
