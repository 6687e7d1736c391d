// The geometry of a convolution window, in the letters of csrc/README.md.
#pragma once

#include <cstdint>

namespace convfirst {

struct Window {
  int64_t kernel_h = 1, kernel_w = 1;
  int64_t stride_h = 1, stride_w = 1;
  int64_t dilation_h = 1, dilation_w = 1;
  int64_t left = 0, right = 0, top = 0, bottom = 0;

  int64_t span_h() const { return dilation_h * (kernel_h - 1) + 1; }
  int64_t span_w() const { return dilation_w * (kernel_w - 1) + 1; }
  // Output size; 0 or less where the padded input is smaller than the dilated kernel.
  int64_t out_h(int64_t h) const { return outputs(h + top + bottom - span_h(), stride_h); }
  int64_t out_w(int64_t w) const { return outputs(w + left + right - span_w(), stride_w); }
  bool pads() const { return left || right || top || bottom; }
  bool is_pointwise() const { return kernel_h == 1 && kernel_w == 1 && stride_h == 1 && stride_w == 1 && !pads(); }

 private:
  static int64_t outputs(int64_t slack, int64_t stride) { return slack < 0 ? 0 : slack / stride + 1; }
};

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace convfirst
