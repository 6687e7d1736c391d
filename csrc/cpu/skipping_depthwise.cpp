// Zero-skipping depthwise convolution, one channel block of one band of output rows at a time. The input rows that the
// band reaches are gathered into an fp32 copy of the block's channels, without padding; every pair of runs has its own
// small kernel, cut out of the weights.
#include <algorithm>
#include <cstring>

#include "image_rows.h"
#include "microkernels/isa.h"
#include "multiply.h"
#include "parallel.h"
#include "skipping_conv.h"
#include "spatial_run.h"

namespace convfirst {
namespace {

constexpr int64_t kGatheredFloats = 48 * 1024;  // a band's copy stays in the L2 cache

class SkippingDepthwise {
 public:
  explicit SkippingDepthwise(const SkippingConv& conv)
      : conv_(conv),
        kernels_(kernels_for<float>()),
        clamp_(clamp_of(conv.activation)),
        multiplier_(conv.out_c / conv.groups),
        taps_(conv.kernel_h * conv.kernel_w),
        lines_(conv.rows, conv.in.h, conv.out_h),
        band_(lines_.band(kGatheredFloats / std::max<int64_t>(1, conv.in.w * kLanes))) {
    for (const AxisRun& row : conv.rows) {
      for (const AxisRun& column : conv.columns) windows_.push_back(window_of(row, column));
    }
    for (size_t w = 0; w < windows_.size(); ++w) {
      plans_.push_back(plan_run(kernels_.depthwise, windows_[w], conv.columns[w % conv.columns.size()].count));
    }
  }

  void run() const {
    const int64_t bands = ceil_div(conv_.out_h, band_), blocks = conv_.blocks();
    for_each_task(conv_.in.n * bands * blocks, [&](int64_t task) {
      const int64_t image = task / blocks / bands, first = task / blocks % bands * band_;
      run_band(image, task % blocks, first, std::min(conv_.out_h, first + band_));
    });
  }

 private:
  static Window window_of(const AxisRun& row, const AxisRun& column) {
    Window w{row.taps, column.taps};
    w.stride_h = row.in_step, w.stride_w = column.in_step;
    w.dilation_h = row.tap_step, w.dilation_w = column.tap_step;
    return w;
  }

  void run_band(int64_t image, int64_t block, int64_t y0, int64_t y1) const {
    const AxisLines::Reach reach = lines_.reach(y0, y1);
    const int64_t copied = reach.count() * conv_.in.w * kLanes;
    const int64_t kernels = static_cast<int64_t>(windows_.size()) * taps_ * kLanes;
    float* copy = task_scratch(copied + kernels + conv_.out_w * kLanes);
    const int64_t lanes = std::min<int64_t>(kLanes, conv_.out_c - block * kLanes);
    const Patch patch{image, reach.first, reach.count(), 0, conv_.in.w};
    if (copied > 0) gather_block(kernels_, conv_.in, patch, block * kLanes, lanes, multiplier_, copy);
    cut_kernels(block, copy + copied);
    for (int64_t y = y0; y < y1; ++y) {
      run_row(image, block, y, lanes, copy - reach.first * conv_.in.w * kLanes, copy + copied, copy + copied + kernels);
    }
  }

  // [pair of runs][kh][kw][16], as many of taps_ as the pair has.
  void cut_kernels(int64_t block, float* kernels) const {
    const float* whole = conv_.weights + block * taps_ * kLanes;
    for (const AxisRun& row : conv_.rows) {
      for (const AxisRun& column : conv_.columns) {
        float* element = kernels;
        for (int64_t y = 0; y < row.taps; ++y) {
          for (int64_t x = 0; x < column.taps; ++x, element += kLanes) {
            const int64_t source = row.element(y) * conv_.kernel_w + column.element(x);
            std::memcpy(element, whole + source * kLanes, kLanes * sizeof(float));
          }
        }
        kernels += taps_ * kLanes;
      }
    }
  }

  // `image_rows` is where row 0 of the copied channels would lie.
  void run_row(int64_t image, int64_t block, int64_t y, int64_t lanes, const float* image_rows, const float* kernels,
               float* spare) const {
    const AxisLines::Line& line = lines_[y];
    const AxisRun& row = conv_.rows[line.run];
    const int64_t columns = static_cast<int64_t>(conv_.columns.size());
    for (int64_t c = 0; c < columns; ++c) {
      const AxisRun& column = conv_.columns[c];
      const int64_t pair = line.run * columns + c;
      const float* rows[kMaxKernelRows];
      for (int64_t t = 0; t < row.taps && column.taps > 0; ++t) {
        rows[t] = image_rows + (row.input(line.index, t) * conv_.in.w + column.in) * kLanes;
      }
      const int64_t pixel = (image * conv_.out_h + y) * conv_.out_w + column.out;
      SpatialArgs<float> s{};
      s.rows = rows, s.runs = 1, s.in_stride = kLanes;
      s.weights = kernels + pair * taps_ * kLanes, s.bias = conv_.bias + block * kLanes;
      store_run(pixel * conv_.out_c + block * kLanes, column, lanes, pair, s, spare);
    }
  }

  void store_run(int64_t position, const AxisRun& column, int64_t lanes, int64_t pair, SpatialArgs<float>& s,
                 float* spare) const {
    const Storage storage = conv_.in.storage;
    const bool direct = storage == Storage::kFloat32 && clamp_.exact && !conv_.residual;
    const int64_t stride = column.out_step * conv_.out_c;
    void* out = offset(conv_.out, storage, position);
    s.out = direct ? static_cast<float*>(out) : spare, s.out_stride = direct ? stride : kLanes;
    s.lanes = direct ? lanes : kLanes, s.low = clamp_.low, s.high = clamp_.high;
    Window window = windows_[pair];
    if (window.kernel_w == 0) window.kernel_h = 0;
    convolve_run(plans_[pair], window, s, column.count);
    if (direct) return;
    FinishArgs<float> f{};
    f.in = spare, f.in_stride = kLanes, f.out = out, f.out_stride = stride;
    f.residual = conv_.residual ? offset(conv_.residual, storage, position) : nullptr, f.residual_stride = stride;
    f.pixels = column.count, f.channels = lanes, f.activation = conv_.activation;
    kernels_.finish[static_cast<int>(storage)](f);
  }

  const SkippingConv& conv_;
  const Kernels<float>& kernels_;
  const Clamp clamp_;
  const int64_t multiplier_;
  const int64_t taps_;
  const AxisLines lines_;
  const int64_t band_;
  std::vector<Window> windows_;  // of every pair of runs
  std::vector<RunPlan<float>> plans_;
};

}  // namespace

void run_skipping_depthwise(const SkippingConv& conv) { SkippingDepthwise(conv).run(); }

}  // namespace convfirst
