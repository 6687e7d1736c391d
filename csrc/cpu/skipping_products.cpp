// Zero-skipping convolution as matrix products that read NHWC pixels where they lie: no padded copy, no im2col. The
// rows of a product are the outputs of a run, or one output pixel of many images where runs are short, as on small
// maps. Output channels come in parts whose weights stay in the L2 cache while all pixels pass.
#include <algorithm>

#include "../tiling/block_plan.h"
#include "microkernels/isa.h"
#include "multiply.h"
#include "parallel.h"
#include "skipping_conv.h"

namespace convfirst {
namespace {

constexpr int64_t kTileRows = 14;

// Time of a product of this many rows, in rows of a full register tile.
int64_t rows_cost(int64_t rows) { return ceil_div(rows, kTileRows) * 2 + rows; }

// Where the taps of a pair of runs lie in the image and in the weights.
struct Taps {
  std::vector<int64_t> inputs, elements;
  int64_t depth;
};

class SkippingProducts {
 public:
  explicit SkippingProducts(const SkippingConv& conv)
      : conv_(conv),
        kernels_(kernels_for<float>()),
        clamp_(clamp_of(conv.activation)),
        group_blocks_(ceil_div(conv.group_out(), kLanes)),
        block_floats_(conv.kernel_h * conv.kernel_w * conv.group_in() * kLanes),
        widens_(conv.in.storage != Storage::kFloat32),
        by_images_(short_runs()) {
    for (const AxisRun& row : conv.rows) {
      for (const AxisRun& column : conv.columns) taps_.push_back(taps_of(row, column));
    }
    for (size_t run = 0; run < conv.rows.size(); ++run) {
      for (int64_t i = 0; i < conv.rows[run].count; ++i) lines_.push_back({static_cast<int64_t>(run), i});
    }
  }

  void run() {
    if (widens_) widen_input();
    const int64_t images = by_images_ ? 1 : conv_.in.n, lines = static_cast<int64_t>(lines_.size()) * images;
    const int64_t parts = channel_parts(lines);
    for_each_task(conv_.groups * parts * lines, [&](int64_t task) {
      const int64_t part = task / lines, group = part / parts, index = part % parts;
      const int64_t first = group_blocks_ * index / parts, last = group_blocks_ * (index + 1) / parts;
      const int64_t image = task % lines / static_cast<int64_t>(lines_.size());
      const Line& line = lines_[task % lines % static_cast<int64_t>(lines_.size())];
      run_line(line, image, group, group * group_blocks_ + first, last - first);
    });
  }

 private:
  struct Line {
    int64_t run, index;
  };

  // Whether one output pixel of all images fills register tiles better than the runs of a line do.
  bool short_runs() const {
    int64_t by_run = 0, pixels = 0;
    for (const AxisRun& column : conv_.columns) by_run += rows_cost(column.count), pixels += column.count;
    return conv_.in.n * by_run > pixels * rows_cost(conv_.in.n);
  }

  // Output channels whose weights take half the L2 cache; more parts where there are fewer tasks than threads.
  int64_t channel_parts(int64_t lines) const {
    const int64_t bytes = group_blocks_ * block_floats_ * int64_t{sizeof(float)};
    const int64_t fitting = ceil_div(bytes, cache_sizes().l2 / 2),
                  busy = ceil_div(thread_count(), lines * conv_.groups);
    return std::clamp<int64_t>(std::max(fitting, busy), 1, ceil_div(group_blocks_, 2));
  }

  // Neighbouring taps of a row become one where they lie side by side in the image and in the weights.
  Taps taps_of(const AxisRun& row, const AxisRun& column) const {
    const int64_t depth = conv_.group_in();
    const bool joins = conv_.groups == 1 && column.tap_step == 1 && column.kernel_step == 1;
    const int64_t steps = joins ? std::min<int64_t>(column.taps, 1) : column.taps;
    Taps taps{{}, {}, joins ? column.taps * depth : depth};
    for (int64_t y = 0; y < row.taps; ++y) {
      for (int64_t x = 0; x < steps; ++x) {
        taps.inputs.push_back((y * row.tap_step * conv_.in.w + x * column.tap_step) * conv_.in.c);
        taps.elements.push_back((row.element(y) * conv_.kernel_w + column.element(x)) * depth * kLanes);
      }
    }
    return taps;
  }

  void run_line(const Line& line, int64_t image, int64_t group, int64_t block, int64_t blocks) const {
    const AxisRun& row = conv_.rows[line.run];
    const int64_t columns = static_cast<int64_t>(conv_.columns.size());
    for (int64_t c = 0; c < columns; ++c) {
      const AxisRun& column = conv_.columns[c];
      const Taps& taps = taps_[line.run * columns + c];
      if (!by_images_) {
        const Pixels pixels{image, column.count, column.in_step * conv_.in.c, column.out_step * conv_.out_c};
        multiply_pixels(row, line.index, column, 0, taps, pixels, group, block, blocks);
        continue;
      }
      const Pixels pixels{0, conv_.in.n, conv_.in.h * conv_.in.w * conv_.in.c, conv_.out_h * conv_.out_w * conv_.out_c};
      for (int64_t i = 0; i < column.count; ++i) {
        multiply_pixels(row, line.index, column, i, taps, pixels, group, block, blocks);
      }
    }
  }

  struct Pixels {
    int64_t image, count, in_stride, out_stride;
  };

  void multiply_pixels(const AxisRun& row, int64_t y, const AxisRun& column, int64_t x, const Taps& taps,
                       const Pixels& pixels, int64_t group, int64_t block, int64_t blocks) const {
    const int64_t in_y = taps.inputs.empty() ? 0 : row.input(y, 0), in_x = taps.inputs.empty() ? 0 : column.input(x, 0);
    const int64_t in_pixel = (pixels.image * conv_.in.h + in_y) * conv_.in.w + in_x;
    const int64_t out_y = row.out + y * row.out_step, out_x = column.out + x * column.out_step;
    const int64_t position =
        ((pixels.image * conv_.out_h + out_y) * conv_.out_w + out_x) * conv_.out_c + block * kLanes;
    const Storage storage = conv_.in.storage;
    const bool direct = !widens_ && clamp_.exact;
    void* out = offset(conv_.out, storage, position);
    const void* residual = conv_.residual ? offset(conv_.residual, storage, position) : nullptr;
    GemmArgs<float> g{};
    g.a = input_ + in_pixel * conv_.in.c + group * conv_.group_in(), g.a_stride = pixels.in_stride;
    g.taps = taps.inputs.data(), g.b_taps = taps.elements.data();
    g.tap_count = static_cast<int64_t>(taps.inputs.size()), g.depth = taps.depth;
    g.b = conv_.weights + block * block_floats_, g.b_block = block_floats_;
    g.init = conv_.bias + block * kLanes, g.init_block = kLanes;
    g.c = widens_ ? task_scratch(pixels.count * blocks * kLanes) : static_cast<float*>(out);
    g.c_stride = widens_ ? blocks * kLanes : pixels.out_stride, g.c_block = kLanes;
    g.residual = direct ? static_cast<const float*>(residual) : nullptr, g.residual_stride = pixels.out_stride;
    g.low = clamp_.low, g.high = clamp_.high;
    const int64_t tail = std::min<int64_t>(kLanes, conv_.out_c - (block + blocks - 1) * kLanes);
    g.last_lanes = widens_ ? kLanes : tail;
    multiply(kernels_, g, pixels.count, blocks);
    if (direct) return;
    FinishArgs<float> f{};
    f.in = g.c, f.in_stride = g.c_stride, f.in_block = kLanes, f.out = out, f.out_stride = pixels.out_stride;
    f.residual = residual, f.residual_stride = pixels.out_stride, f.pixels = pixels.count;
    f.channels = (blocks - 1) * kLanes + tail, f.activation = conv_.activation;
    kernels_.finish[static_cast<int>(storage)](f);
  }

  void widen_input() {
    const int64_t row = conv_.in.w * conv_.in.c;
    float* copy = call_scratch(conv_.in.n * conv_.in.h * row);
    const WidenKernel<float> widen = kernels_.widen[static_cast<int>(conv_.in.storage)];
    share_tasks(conv_.in.n * conv_.in.h, [&](int64_t a, int64_t b) {
      widen(offset(conv_.in.data, conv_.in.storage, a * row), copy + a * row, (b - a) * row);
    });
    input_ = copy;
  }

  const SkippingConv& conv_;
  const Kernels<float>& kernels_;
  const Clamp clamp_;
  const int64_t group_blocks_;  // output blocks a group
  const int64_t block_floats_;  // weights of an output block
  const bool widens_;
  const bool by_images_;
  const float* input_ = static_cast<const float*>(conv_.in.data);
  std::vector<Taps> taps_;  // of every pair of runs
  std::vector<Line> lines_;
};

}  // namespace

void run_skipping_products(const SkippingConv& conv) { SkippingProducts(conv).run(); }

void run_skipping(const SkippingConv& conv) {
  if (conv.is_depthwise()) return run_skipping_depthwise(conv);
  scatter_is_cheaper(conv) ? run_skipping_scatter(conv) : run_skipping_products(conv);
}

}  // namespace convfirst
