// Subsampling behind the triangle-3 filter, [1, 2, 1] / 4 in both directions, with reflected edges (Zhang, "Making
// Convolutional Networks Shift-Invariant Again", arXiv 1904.11486).
#pragma once

#include "tensor.h"

namespace convfirst {

// Computed and stored in E.
template <class E>
struct BlurPool {
  ImageView in;        // at least 2x2 pixels
  const void* beside;  // nullptr, or a second image like `in`, whose channels follow those of the first
  int64_t images;      // read: 1, or 2 with `beside`
  int64_t stride;
  void* out;

  int64_t out_h() const { return (in.h - 1) / stride + 1; }
  int64_t out_w() const { return (in.w - 1) / stride + 1; }
  int64_t out_c() const { return images * in.c; }
};

template <class E>
void run_blur_pool(const BlurPool<E>& pool);

}  // namespace convfirst
