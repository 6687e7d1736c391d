// 3x3 convolutions of stride 1 by Winograd's minimal filtering: F(2x2, 3x3) needs 16 products a channel for 4 outputs,
// F(4x4, 3x3) 36 for 16, where a direct convolution takes 36 and 144 (Lavin and Gray, "Fast Algorithms for
// Convolutional Neural Networks", arXiv 1509.09308). A task transforms a run of tiles with all their channels,
// multiplies the run's positions by a few blocks of output channels at a time, and transforms these back while they are
// in its cache.
#include <algorithm>

#include "../tiling/winograd_plan.h"
#include "image_rows.h"
#include "microkernels/isa.h"
#include "parallel.h"
#include "winograd.h"

namespace convfirst {
namespace {

template <int kOut>
class WinogradConv {
 public:
  explicit WinogradConv(const Convolution<float>& conv)
      : conv_(conv),
        kernels_(kernels_for<float>()),
        clamp_(clamp_of(conv.activation)),
        sum_clamp_(clamp_of(conv.sum_activation)),
        streams_(conv.streams()),
        tile_rows_(ceil_div(conv.out_h, kOut)),
        tile_columns_(ceil_div(conv.out_w, kOut)),
        depth_(ceil_div(conv.in.c, kLanes) * kLanes),
        plan_(plan_winograd(conv.shape(), tile_count(), kPositions, cache_sizes(), thread_count())) {}

  void run() const {
    const int64_t runs = ceil_div(tile_count(), plan_.run_tiles), parts = plan_.parts;
    for_each_task(runs * parts, [&](int64_t task) {
      const int64_t first = task / parts * plan_.run_tiles, part = task % parts;
      const int64_t count = std::min(plan_.run_tiles, tile_count() - first);
      run_tiles({first, count}, conv_.blocks() * part / parts, conv_.blocks() * (part + 1) / parts);
    });
  }

 private:
  static constexpr int64_t kIn = kOut + 2, kPositions = kIn * kIn;
  static constexpr int kSlot = kOut / 2 - 1;

  struct Run {
    int64_t first, count;
  };
  struct Tile {
    int64_t image, y, x;  // of the first output
  };
  struct Scratch {
    float *values, *sums, *outputs, *patch, *zeros;
  };

  int64_t tile_count() const { return conv_.in.n * tile_rows_ * tile_columns_; }
  Tile tile_at(int64_t index) const {
    const int64_t row = index / tile_columns_;
    return {row / tile_rows_, row % tile_rows_ * kOut, index % tile_columns_ * kOut};
  }
  // A line more than whole pages, or all positions of a tile would share one set of the cache.
  int64_t position_floats(int64_t count) const { return count * depth_ + kLanes; }
  int64_t sum_floats(int64_t count) const { return count * plan_.sum_blocks * kLanes + kLanes; }

  Scratch scratch(int64_t count) const {
    const int64_t values = kPositions * position_floats(count), sums = kPositions * sum_floats(count);
    const int64_t outputs = kOut * kOut * plan_.sum_blocks * kLanes;
    const int64_t patch = conv_.stores_elements() ? 0 : kPositions * conv_.in.c;
    float* start = task_scratch<float>(values + sums + outputs + patch + depth_);
    Scratch s{start, start + values, start + values + sums, start + values + sums + outputs, nullptr};
    s.zeros = s.patch + patch;
    std::fill(s.zeros, s.zeros + depth_, 0.0f);
    return s;
  }

  void run_tiles(const Run& run, int64_t begin, int64_t end) const {
    const Scratch s = scratch(run.count);
    for (int64_t i = 0; i < run.count; ++i) transform_input(tile_at(run.first + i), s, i, run.count);
    for (int64_t block = begin; block < end; block += plan_.sum_blocks) {
      const int64_t blocks = std::min(plan_.sum_blocks, end - block);
      multiply_positions(run, block, blocks, s);
      for (int64_t i = 0; i < run.count; ++i) transform_output(tile_at(run.first + i), s, i, run.count, block, blocks);
    }
  }

  void transform_input(const Tile& tile, const Scratch& s, int64_t index, int64_t count) const {
    const float* pixels[kPositions];
    const int64_t top = tile.y - conv_.window.top, left = tile.x - conv_.window.left;
    if (conv_.stores_elements()) {
      point_at_pixels(tile.image, top, left, s.zeros, pixels);
    } else {
      widen_patch(kernels_, conv_.in, {tile.image, top, kIn, left, kIn}, s.patch);
      for (int64_t i = 0; i < kPositions; ++i) pixels[i] = s.patch + i * conv_.in.c;
    }
    kernels_.winograd_input[kSlot]({pixels, conv_.in.c, s.values + index * depth_, position_floats(count)});
  }

  void point_at_pixels(int64_t image, int64_t top, int64_t left, const float* zeros, const float** pixels) const {
    const ImageView& in = conv_.in;
    const float* first = static_cast<const float*>(in.data) + image * in.h * in.w * in.c;
    for (int64_t y = top; y < top + kIn; ++y) {
      const bool row_inside = y >= 0 && y < in.h;
      for (int64_t x = left; x < left + kIn; ++x) {
        *pixels++ = row_inside && x >= 0 && x < in.w ? first + (y * in.w + x) * in.c : zeros;
      }
    }
  }

  void multiply_positions(const Run& run, int64_t block, int64_t blocks, const Scratch& s) const {
    static constexpr float kNothing[kLanes] = {};
    static constexpr int64_t kNoOffset = 0;
    const int64_t position_weights = conv_.in.c * kLanes, block_weights = kPositions * position_weights;
    GemmArgs<float> g{};
    g.a_stride = depth_, g.taps = &kNoOffset, g.tap_count = 1, g.depth = conv_.in.c;
    g.b_block = block_weights;
    g.init = kNothing;
    g.c_stride = blocks * kLanes, g.c_block = kLanes;
    g.low = -kInfinity, g.high = kInfinity, g.last_lanes = kLanes;
    for (int64_t position = 0; position < kPositions; ++position) {
      g.a = s.values + position * position_floats(run.count);
      g.b = conv_.weights + block * block_weights + position * position_weights;
      g.c = s.sums + position * sum_floats(run.count);
      multiply(kernels_, g, run.count, blocks);
    }
  }

  void transform_output(const Tile& tile, const Scratch& s, int64_t index, int64_t count, int64_t block,
                        int64_t blocks) const {
    const bool whole = block + blocks < conv_.blocks() || conv_.lanes(conv_.blocks() - 1) == kLanes;
    const bool direct = conv_.stores_directly() && whole;
    const int64_t position =
        ((tile.image * conv_.out_h + tile.y) * conv_.out_w + tile.x) * conv_.out_c + block * kLanes;
    WinogradOutputArgs<float> w{};
    w.sums = s.sums + index * blocks * kLanes, w.position_step = sum_floats(count);
    w.bias = conv_.bias + block * kLanes;
    w.out = direct ? static_cast<float*>(conv_.out) + position : s.outputs;
    w.pixel_step = direct ? conv_.out_c : blocks * kLanes;
    w.row_step = direct ? conv_.out_w * conv_.out_c : kOut * w.pixel_step;
    w.rows = std::min<int64_t>(kOut, conv_.out_h - tile.y), w.columns = std::min<int64_t>(kOut, conv_.out_w - tile.x);
    w.channels = blocks * kLanes;
    if (direct && conv_.residual) w.residual = static_cast<const float*>(conv_.residual) + position;
    w.low = clamp_.low, w.high = clamp_.high, w.sum_low = sum_clamp_.low, w.sum_high = sum_clamp_.high;
    w.streams = direct && streams_;
    kernels_.winograd_output[kSlot](w);
    if (!direct) finish(w, position, block, blocks);
  }

  // What was left in a tile of its own goes to its place.
  void finish(const WinogradOutputArgs<float>& w, int64_t position, int64_t block, int64_t blocks) const {
    FinishArgs<float> f{};
    f.in_stride = w.pixel_step, f.in_block = kLanes, f.out_stride = f.residual_stride = conv_.out_c;
    f.pixels = w.columns, f.channels = (blocks - 1) * kLanes + conv_.lanes(block + blocks - 1);
    f.activation = conv_.activation, f.sum_low = sum_clamp_.low, f.sum_high = sum_clamp_.high;
    for (int64_t row = 0; row < w.rows; ++row, position += conv_.out_w * conv_.out_c) {
      f.in = w.out + row * w.row_step, f.out = offset(conv_.out, conv_.in.storage, position);
      f.residual = conv_.residual ? offset(conv_.residual, conv_.in.storage, position) : nullptr;
      kernels_.finish[static_cast<int>(conv_.in.storage)](f);
    }
  }

  const Convolution<float>& conv_;
  const Kernels<float>& kernels_;
  const Clamp clamp_, sum_clamp_;
  const bool streams_;
  const int64_t tile_rows_, tile_columns_;
  const int64_t depth_;  // input channels in whole blocks
  const WinogradPlan plan_;
};

}  // namespace

template <int kOut>
void run_winograd(const Convolution<float>& conv) {
  WinogradConv<kOut>(conv).run();
}

template void run_winograd<2>(const Convolution<float>&);
template void run_winograd<4>(const Convolution<float>&);

}  // namespace convfirst
