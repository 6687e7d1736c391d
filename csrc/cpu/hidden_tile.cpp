// Produces hidden rows tile by tile. The ring has zero columns at both sides, so the convolution knows no edges; rows
// outside the image are skipped.
#include "hidden_tile.h"

#include <algorithm>
#include <cstring>

#include "image_rows.h"
#include "spatial_run.h"

namespace convfirst {
namespace {

constexpr int64_t kRowsAtOnce = 8;

}  // namespace

template <class E>
HiddenTile<E>::HiddenTile(const FusedBlock<E>& block, const BlockPlan& plan, const Kernels<E>& kernels)
    : block_(block),
      kernels_(kernels),
      clamp_(clamp_of(block.activation)),
      run_plan_(plan_run(block.grouped8 ? kernels.grouped8 : kernels.depthwise, block.window, block.out_w)),
      padded_w_(block.shape().padded_w),
      ring_rows_(ring_rows(block.shape(), plan)),
      ring_block_(ring_rows_ * padded_w_ * kLanes),
      most_blocks_(plan.hidden_blocks) {}

template <class E>
int64_t HiddenTile<E>::scratch_elements() const {
  const bool widens = block_.expand_weights && !block_.stores_elements();
  const int64_t widened = widens ? ceil_div(ring_rows_ * block_.in.w * block_.in.c, kLanes) * kLanes : 0;
  return most_blocks_ * ring_block_ + widened;
}

template <class E>
void HiddenTile<E>::begin(int64_t image, int64_t first, int64_t count, E* scratch) {
  image_ = image, first_ = first, count_ = count, filled_ = 0;
  ring_ = scratch;
  widened_ = scratch + most_blocks_ * ring_block_;
  const Window& w = block_.window;
  const int64_t right = w.left + block_.in.w;
  for (int64_t row = 0; row < count * ring_rows_; ++row) {
    E* pixels = ring_ + row * padded_w_ * kLanes;
    std::memset(pixels, 0, static_cast<size_t>(w.left * kLanes) * sizeof(E));
    std::memset(pixels + right * kLanes, 0, static_cast<size_t>((padded_w_ - right) * kLanes) * sizeof(E));
  }
}

template <class E>
void HiddenTile<E>::fill_until(int64_t last_row, int64_t first_row) {
  filled_ = std::max({filled_, first_row, int64_t{0}});
  const int64_t end = std::min(last_row + 1, block_.in.h);
  while (filled_ < end) {
    const int64_t rows = std::min(end - filled_, ring_rows_ - filled_ % ring_rows_);  // up to the ring's end
    fill_rows(filled_, rows);
    filled_ += rows;
  }
}

template <class E>
void HiddenTile<E>::fill_rows(int64_t row, int64_t rows) {
  E* target = ring_row(row) + block_.window.left * kLanes;
  if (block_.expand_weights) return expand_rows(row, rows, target);
  for (int64_t r = 0; r < rows; ++r) {
    const Patch patch{image_, row + r, 1, 0, block_.in.w};
    for (int64_t b = 0; b < count_; ++b) {
      const int64_t channel = (first_ + b) * kLanes;
      const int64_t lanes = std::min<int64_t>(kLanes, block_.hidden - channel);
      gather_block(kernels_, block_.in, patch, channel, lanes, 1, target + b * ring_block_ + r * padded_w_ * kLanes);
    }
  }
}

// Input rows follow each other in memory, hidden rows have padding between them.
template <class E>
void HiddenTile<E>::expand_rows(int64_t row, int64_t rows, E* target) {
  static constexpr int64_t kNoOffset[] = {0};
  const ImageView& in = block_.in;
  const int64_t start = (image_ * in.h + row) * in.w * in.c;
  GemmArgs<E> g{};
  if (block_.stores_elements()) {
    g.a = static_cast<const E*>(in.data) + start;
  } else {
    kernels_.widen[static_cast<int>(in.storage)](offset(in.data, in.storage, start), widened_, rows * in.w * in.c);
    g.a = widened_;
  }
  g.a_stride = in.c, g.taps = kNoOffset, g.tap_count = 1, g.depth = in.c;
  g.b = block_.expand_weights + first_ * in.c * kLanes, g.b_block = in.c * kLanes;
  g.init = block_.expand_bias + first_ * kLanes, g.init_block = kLanes;
  g.c = target, g.c_stride = kLanes, g.c_block = ring_block_;
  g.c_row = in.w, g.c_gap = (padded_w_ - in.w) * kLanes;
  g.low = clamp_.low, g.high = clamp_.high, g.last_lanes = kLanes;
  multiply(kernels_, g, rows * in.w, count_);
  if (clamp_.exact) return;
  for (int64_t b = 0; b < count_; ++b) {
    for (int64_t r = 0; r < rows; ++r) {
      kernels_.activate(target + b * ring_block_ + r * padded_w_ * kLanes, in.w, block_.activation);
    }
  }
}

template <class E>
void HiddenTile<E>::convolve(int64_t y0, int64_t y1, E* out, int64_t out_block) {
  const Window& w = block_.window;
  const int64_t first_row = y0 * w.stride_h - w.top;
  fill_until((y1 - 1) * w.stride_h - w.top + w.span_h() - 1, first_row);
  const int64_t inputs = block_.grouped8 ? 8 : 1;
  SpatialArgs<E> s{};
  s.out_row = block_.out_w * kLanes;
  s.in_stride = kLanes, s.out_stride = kLanes, s.lanes = kLanes, s.low = clamp_.low, s.high = clamp_.high;
  for (int64_t b = 0; b < count_; ++b) {
    s.weights = block_.conv_weights + (first_ + b) * w.kernel_h * w.kernel_w * inputs * kLanes;
    s.bias = block_.conv_bias + (first_ + b) * kLanes;
    for (int64_t y = y0; y < y1; y += kRowsAtOnce) {
      s.out = out + b * out_block + (y - y0) * s.out_row;
      convolve_rows(b, y, std::min(y1, y + kRowsAtOnce), s);
    }
    if (!clamp_.exact) kernels_.activate(out + b * out_block, (y1 - y0) * block_.out_w, block_.activation);
  }
}

template <class E>
void HiddenTile<E>::convolve_rows(int64_t block, int64_t y0, int64_t y1, SpatialArgs<E>& s) {
  const Window& w = block_.window;
  const E* rows[kRowsAtOnce * kMaxKernelRows];
  for (int64_t y = y0; y < y1; ++y) {
    for (int64_t ky = 0; ky < w.kernel_h; ++ky) {
      const int64_t row = y * w.stride_h - w.top + ky * w.dilation_h;
      const bool outside = row < 0 || row >= block_.in.h;
      rows[(y - y0) * w.kernel_h + ky] = outside ? nullptr : ring_row(row) + block * ring_block_;
    }
  }
  s.rows = rows, s.runs = y1 - y0, s.rows_step = w.kernel_h;
  convolve_run(run_plan_, w, s, block_.out_w);
}

template class HiddenTile<float>;
template class HiddenTile<Half>;

}  // namespace convfirst
