// Pointwise and direct convolution as register-blocked matrix products. A 1x1 convolution reads pixels in place that
// have the type of its arithmetic; otherwise a band of input rows is copied with its padding, and each kernel row
// becomes one tap of kernel_w * C contiguous products (kernel_w taps where columns are dilated or channels grouped).
#include <algorithm>
#include <vector>

#include "convolution.h"
#include "image_rows.h"
#include "microkernels/isa.h"
#include "parallel.h"

namespace convfirst {
namespace {

constexpr int64_t kWidenedFloats = 24576;  // a widened run or band stays within the L2 cache
constexpr int64_t kBandRows = 4;

template <class E>
class DirectConv {
 public:
  explicit DirectConv(const Convolution<E>& conv)
      : conv_(conv),
        window_(conv.window),
        kernels_(kernels_for<E>()),
        clamp_(clamp_of(conv.activation)),
        sum_clamp_(clamp_of(conv.sum_activation)),
        streams_(conv.streams()),
        group_blocks_(conv.groups == 1 ? conv.blocks() : conv.out_c / conv.groups / kLanes),
        products_(window_.kernel_h * window_.kernel_w * conv.group_in()),
        cached_blocks_(std::max<int64_t>(2, cache_sizes().l2 / 2 / (products_ * 64) / 2 * 2)) {}

  void run() {
    if (window_.is_pointwise()) {
      taps_ = {0};
      depth_ = conv_.group_in();
      run_pixels();
    } else {
      prepare_bands();
      run_bands();
    }
  }

  // Output rows [y0, y1) of an image, in the calling thread.
  void run_rows(int64_t image, int64_t y0, int64_t y1) {
    prepare_bands();
    for (int64_t y = y0; y < y1; y += band_) run_band(image, y, std::min(y1, y + band_), 0, 1);
  }

 private:
  static constexpr int64_t kLanes = kLanesOf<E>;

  void set_taps() {
    const bool whole_rows = window_.dilation_w == 1 && conv_.groups == 1;
    const int64_t columns = whole_rows ? 1 : window_.kernel_w;
    depth_ = whole_rows ? window_.kernel_w * conv_.in.c : conv_.group_in();
    for (int64_t ky = 0; ky < window_.kernel_h; ++ky) {
      for (int64_t kx = 0; kx < columns; ++kx) {
        taps_.push_back((ky * window_.dilation_h * padded_w_ + kx * window_.dilation_w) * conv_.in.c);
      }
    }
  }

  // Blocks of output channels that tasks may share; those of several groups stay together.
  int64_t column_blocks() const { return conv_.groups > 1 ? 1 : group_blocks_; }

  void run_pixels() const {
    const int64_t pixels = conv_.in.n * conv_.in.h * conv_.in.w;
    const bool widens = !conv_.stores_elements();
    const int64_t run_bytes = widens ? kWidenedFloats * static_cast<int64_t>(sizeof(E)) : cache_sizes().l2;
    const PointwisePlan plan = plan_pointwise(conv_.shape(), column_blocks(), run_bytes, cache_sizes(), thread_count());
    const int64_t run = plan.run_pixels, runs = ceil_div(pixels, run), parts = plan.parts;
    for_each_task(runs * parts, [&](int64_t task) {
      const int64_t first = task / parts * run, count = std::min(run, pixels - first), part = task % parts;
      const E* a = nullptr;
      if (widens) {
        E* copy = task_scratch<E>(run * (conv_.in.c + conv_.blocks() * kLanes));
        const void* source = offset(conv_.in.data, conv_.in.storage, first * conv_.in.c);
        kernels_.widen[static_cast<int>(conv_.in.storage)](source, copy, count * conv_.in.c);
        a = copy;
      } else {
        a = static_cast<const E*>(conv_.in.data) + first * conv_.in.c;
      }
      E* spare = widens ? const_cast<E*>(a) + run * conv_.in.c : nullptr;
      const int64_t begin = group_blocks_ * part / parts, end = group_blocks_ * (part + 1) / parts;
      for (int64_t group = 0; group < conv_.groups; ++group) {
        const E* pixel = a + group * conv_.group_in();
        run_tile(pixel, conv_.in.c, first, count, group * group_blocks_ + begin, end - begin, spare);
      }
    });
  }

  void prepare_bands() {
    padded_w_ = std::max((conv_.out_w - 1) * window_.stride_w + window_.span_w(), window_.span_w());
    set_taps();
    const int64_t row_floats = padded_w_ * conv_.in.c;
    const int64_t fitting =
        (2 * kWidenedFloats / std::max<int64_t>(row_floats, 1) - window_.span_h()) / window_.stride_h;
    band_ = std::clamp<int64_t>(fitting, 1, std::min(conv_.out_h, kBandRows));
  }

  void run_bands() {
    const int64_t threads = thread_count();
    band_ = balanced_band(conv_.out_h, band_, conv_.in.n, threads);
    const int64_t bands = ceil_div(conv_.out_h, band_);
    const int64_t parts = column_parts(conv_.in.n * bands, column_blocks(), threads);
    for_each_task(conv_.in.n * bands * parts, [&](int64_t task) {
      const int64_t image = task / parts / bands, y0 = task / parts % bands * band_;
      run_band(image, y0, std::min(conv_.out_h, y0 + band_), task % parts, parts);
    });
  }

  void run_band(int64_t image, int64_t y0, int64_t y1, int64_t part, int64_t parts) const {
    const int64_t row_floats = padded_w_ * conv_.in.c, rows = (y1 - y0 - 1) * window_.stride_h + window_.span_h();
    E* copy = task_scratch<E>(rows * row_floats + conv_.out_w * conv_.blocks() * kLanes);
    const Patch patch{image, y0 * window_.stride_h - window_.top, rows, -window_.left, padded_w_};
    widen_patch(kernels_, conv_.in, patch, copy);
    const int64_t begin = group_blocks_ * part / parts, end = group_blocks_ * (part + 1) / parts;
    for (int64_t group = 0; group < conv_.groups; ++group) {
      for (int64_t block = begin; block < end; block += cached_blocks_) {
        const int64_t blocks = std::min(cached_blocks_, end - block);
        for (int64_t y = y0; y < y1; ++y) {
          const E* a = copy + (y - y0) * window_.stride_h * row_floats + group * conv_.group_in();
          const int64_t first = (image * conv_.out_h + y) * conv_.out_w;
          run_tile(a, window_.stride_w * conv_.in.c, first, conv_.out_w, group * group_blocks_ + block, blocks,
                   copy + rows * row_floats);
        }
      }
    }
  }

  void run_tile(const E* a, int64_t a_stride, int64_t first, int64_t count, int64_t block, int64_t blocks,
                E* spare) const {
    const bool in_place = conv_.stores_elements();
    const int64_t position = first * conv_.out_c + block * kLanes;
    void* out = offset(conv_.out, conv_.in.storage, position);
    const void* residual = conv_.residual ? offset(conv_.residual, conv_.in.storage, position) : nullptr;
    GemmArgs<E> g{};
    g.a = a, g.a_stride = a_stride, g.taps = taps_.data(), g.tap_count = static_cast<int64_t>(taps_.size());
    g.depth = depth_;
    g.b = conv_.weights + block * products_ * kLanes, g.b_block = products_ * kLanes;
    g.init = conv_.bias + block * kLanes, g.init_block = kLanes;
    g.c = in_place ? static_cast<E*>(out) : spare;
    g.c_stride = in_place ? conv_.out_c : blocks * kLanes, g.c_block = kLanes;
    g.residual = conv_.stores_directly() ? static_cast<const E*>(residual) : nullptr;
    g.residual_stride = conv_.out_c;
    g.low = clamp_.low, g.high = clamp_.high, g.sum_low = sum_clamp_.low, g.sum_high = sum_clamp_.high;
    g.streams = streams_;
    g.last_lanes = in_place ? conv_.lanes(block + blocks - 1) : kLanes;
    multiply(kernels_, g, count, blocks);
    if (conv_.stores_directly()) return;
    FinishArgs<E> f{};
    f.in = g.c, f.in_stride = g.c_stride, f.in_block = kLanes, f.out = out, f.out_stride = conv_.out_c;
    f.residual = residual, f.residual_stride = conv_.out_c;
    f.pixels = count, f.channels = (blocks - 1) * kLanes + conv_.lanes(block + blocks - 1);
    f.activation = conv_.activation, f.sum_low = sum_clamp_.low, f.sum_high = sum_clamp_.high;
    kernels_.finish[static_cast<int>(conv_.in.storage)](f);
  }

  const Convolution<E>& conv_;
  const Window& window_;
  const Kernels<E>& kernels_;
  const Clamp clamp_, sum_clamp_;
  const bool streams_;
  const int64_t group_blocks_;   // output blocks a group
  const int64_t products_;       // products an output channel
  const int64_t cached_blocks_;  // output blocks whose weights stay in the cache for all rows of a band
  int64_t padded_w_ = 0;
  int64_t band_ = 1;  // output rows that share a copy of their input
  int64_t depth_ = 0;
  std::vector<int64_t> taps_;
};

}  // namespace

template <class E>
void run_direct(const Convolution<E>& conv) {
  DirectConv<E>(conv).run();
}

template <class E>
void run_direct_rows(const Convolution<E>& conv, int64_t image, int64_t y0, int64_t y1) {
  DirectConv<E>(conv).run_rows(image, y0, y1);
}

template void run_direct(const Convolution<float>&);
template void run_direct(const Convolution<Half>&);
template void run_direct_rows(const Convolution<float>&, int64_t, int64_t, int64_t);
template void run_direct_rows(const Convolution<Half>&, int64_t, int64_t, int64_t);

}  // namespace convfirst
