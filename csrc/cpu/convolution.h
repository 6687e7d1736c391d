// What every single convolution is called with, after its arguments were checked.
#pragma once

#include "../shapes.h"
#include "multiply.h"
#include "tensor.h"

namespace convfirst {

struct Convolution {
  ImageView in;
  Window window;
  int64_t groups;
  int64_t out_c, out_h, out_w;
  const float* weights;  // packed [block][kh][kw][k][16]
  const float* bias;     // padded to whole blocks
  const void* residual;  // nullptr: none; NHWC like out
  void* out;
  Activation activation;
  void (*run)(const Convolution& conv);

  int64_t blocks() const { return ceil_div(out_c, kLanes); }
  int64_t lanes(int64_t block) const { return out_c - block * kLanes < kLanes ? out_c - block * kLanes : kLanes; }
  int64_t group_in() const { return in.c / groups; }
  // Whether the driver copies its input, so that it takes any layout.
  bool reads_planar() const { return groups == 1 && !window.is_pointwise(); }
  // Whether a kernel can store its fp32 results in place, clamped.
  bool stores_directly() const { return in.storage == Storage::kFloat32 && clamp_of(activation).exact; }
};

// One 16-channel block at a time: depthwise with any multiplier, and group width 8.
void run_spatial(const Convolution& conv);

// All input channels of a group at a time: pointwise, dense, and group widths that are multiples of 16.
void run_direct(const Convolution& conv);

}  // namespace convfirst
