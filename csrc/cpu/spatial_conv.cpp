// Depthwise and group-width-8 convolution of whole images: bands of rows by channel blocks, shared among threads.
// Inner columns of images in the type of the arithmetic are read in place; edges, other storage types and channel tails
// go through a small copy with its zero padding, so that the microkernels know no edges.
#include <algorithm>

#include "convolution.h"
#include "image_rows.h"
#include "microkernels/isa.h"
#include "parallel.h"
#include "spatial_run.h"

namespace convfirst {
namespace {

constexpr int64_t kInPlaceWidth = 28;  // narrower rows spend more on their edges than on a copy
constexpr int64_t kRowsAtOnce = 8;

template <class E>
class SpatialConv {
 public:
  explicit SpatialConv(const Convolution<E>& conv)
      : conv_(conv),
        window_(conv.window),
        kernels_(kernels_for<E>()),
        grouped_(conv.groups != conv.in.c),
        family_(grouped_ ? kernels_.grouped8 : kernels_.depthwise),
        row_plan_(plan_run(family_, window_, conv.out_w)),
        band_plan_(plan_bands(conv.shape(), cache_sizes(), thread_count())),
        multiplier_(grouped_ ? 1 : conv.out_c / conv.groups),
        clamp_(clamp_of(conv.activation)),
        padded_w_((conv.out_w - 1) * conv.window.stride_w + conv.window.span_w()) {}

  // All channel blocks of a band before the next band: memory is then read and written about in the order it lies.
  void run() const {
    const int64_t band = band_plan_.band_rows, bands = ceil_div(conv_.out_h, band), blocks = conv_.blocks();
    const int64_t parts = std::min(blocks, ceil_div(4 * thread_count(), conv_.in.n * bands));
    for_each_task(conv_.in.n * bands * parts, [&](int64_t task) {
      const int64_t image = task / parts / bands, first = task / parts % bands * band, part = task % parts;
      const int64_t last = std::min(conv_.out_h, first + band);
      for (int64_t block = blocks * part / parts; block < blocks * (part + 1) / parts; ++block) {
        run_band(image, block, first, last);
      }
    });
  }

 private:
  static constexpr int64_t kLanes = kLanesOf<E>;

  // Rows so long that a copy would hold few of them are read where they lie, and rows of which a stride uses a part.
  bool in_place(int64_t block) const {
    return conv_.stores_elements() && multiplier_ == 1 && conv_.lanes(block) == kLanes &&
           (window_.stride_w > 1 || !band_plan_.copies) && conv_.out_w >= kInPlaceWidth;
  }

  void run_band(int64_t image, int64_t block, int64_t y0, int64_t y1) const {
    const int64_t gathered = ((y1 - y0 - 1) * window_.stride_h + window_.span_h()) * padded_w_ * kLanes;
    const int64_t row_out = conv_.out_w * kLanes;
    E* scratch = task_scratch<E>(gathered + kRowsAtOnce * row_out);
    if (in_place(block)) {
      for (int64_t y = y0; y < y1; ++y) run_row_in_place(image, block, y, scratch, scratch + gathered);
      return;
    }
    const int64_t top = y0 * window_.stride_h - window_.top;
    const Patch patch{image, top, (y1 - y0 - 1) * window_.stride_h + window_.span_h(), -window_.left, padded_w_};
    gather_block(kernels_, conv_.in, patch, block * kLanes, conv_.lanes(block), multiplier_, scratch);
    for (int64_t y = y0; y < y1; y += kRowsAtOnce) {
      run_gathered_rows(image, block, y, std::min(y1, y + kRowsAtOnce), top, scratch, scratch + gathered);
    }
  }

  void run_gathered_rows(int64_t image, int64_t block, int64_t y0, int64_t y1, int64_t top, const E* copy,
                         E* rows_out) const {
    const E* rows[kRowsAtOnce * kMaxKernelRows];
    for (int64_t y = y0; y < y1; ++y) {
      for (int64_t ky = 0; ky < window_.kernel_h; ++ky) {
        const int64_t in_y = y * window_.stride_h - window_.top + ky * window_.dilation_h;
        const bool outside = in_y < 0 || in_y >= conv_.in.h;
        rows[(y - y0) * window_.kernel_h + ky] = outside ? nullptr : copy + (in_y - top) * padded_w_ * kLanes;
      }
    }
    run_span(image, block, y0, y1 - y0, 0, conv_.out_w, rows, kLanes, rows_out);
  }

  // Outputs [first, last) see inside columns only.
  void run_row_in_place(int64_t image, int64_t block, int64_t y, E* edge, E* row_out) const {
    const int64_t first = std::min(conv_.out_w, ceil_div(window_.left, window_.stride_w));
    const int64_t reach = conv_.in.w + window_.left - window_.span_w();
    const int64_t last = reach < 0 ? first : std::clamp<int64_t>(reach / window_.stride_w + 1, first, conv_.out_w);
    run_edge(image, block, y, 0, first, edge, row_out);
    run_edge(image, block, y, last, conv_.out_w, edge, row_out);
    if (last == first) return;
    const E* rows[kMaxKernelRows];
    for (int64_t ky = 0; ky < window_.kernel_h; ++ky) {
      const int64_t in_y = y * window_.stride_h - window_.top + ky * window_.dilation_h;
      const int64_t pixel = (image * conv_.in.h + in_y) * conv_.in.w + first * window_.stride_w - window_.left;
      rows[ky] = in_y < 0 || in_y >= conv_.in.h
                     ? nullptr
                     : static_cast<const E*>(conv_.in.data) + pixel * conv_.in.c + block * kLanes;
    }
    run_span(image, block, y, 1, first, last, rows, conv_.in.c, row_out);
  }

  void run_edge(int64_t image, int64_t block, int64_t y, int64_t first, int64_t last, E* edge, E* row_out) const {
    if (first >= last) return;
    const int64_t columns = (last - first - 1) * window_.stride_w + window_.span_w();
    const Patch patch{image, y * window_.stride_h - window_.top, window_.span_h(),
                      first * window_.stride_w - window_.left, columns};
    gather_block(kernels_, conv_.in, patch, block * kLanes, kLanes, 1, edge);
    const E* rows[kMaxKernelRows];
    for (int64_t ky = 0; ky < window_.kernel_h; ++ky) {
      const int64_t in_y = patch.row + ky * window_.dilation_h;
      rows[ky] = in_y < 0 || in_y >= conv_.in.h ? nullptr : edge + ky * window_.dilation_h * columns * kLanes;
    }
    run_span(image, block, y, 1, first, last, rows, kLanes, row_out);
  }

  // Outputs [first, last) of `runs` rows from y on.
  void run_span(int64_t image, int64_t block, int64_t y, int64_t runs, int64_t first, int64_t last,
                const E* const* rows, int64_t in_stride, E* row_out) const {
    const int64_t position = ((image * conv_.out_h + y) * conv_.out_w + first) * conv_.out_c + block * kLanes;
    void* out = offset(conv_.out, conv_.in.storage, position);
    const bool direct = conv_.stores_directly() && !conv_.residual;
    const int64_t inputs = grouped_ ? 8 : 1;
    SpatialArgs<E> s{};
    s.rows = rows, s.runs = runs, s.rows_step = window_.kernel_h, s.in_stride = in_stride;
    s.weights = conv_.weights + block * window_.kernel_h * window_.kernel_w * inputs * kLanes;
    s.bias = conv_.bias + block * kLanes;
    s.out = direct ? static_cast<E*>(out) : row_out;
    s.out_stride = direct ? conv_.out_c : kLanes, s.out_row = (last - first) * kLanes;
    if (direct) s.out_row = conv_.out_w * conv_.out_c;
    s.lanes = direct ? conv_.lanes(block) : kLanes;
    s.low = clamp_.low, s.high = clamp_.high;
    const int64_t outputs = last - first;
    const bool whole = outputs == conv_.out_w;
    convolve_run(whole ? row_plan_ : plan_run(family_, window_, outputs), window_, s, outputs);
    if (direct) return;
    FinishArgs<E> f{};
    f.in = row_out, f.in_stride = kLanes, f.out = out, f.out_stride = conv_.out_c;
    f.residual = conv_.residual ? offset(conv_.residual, conv_.in.storage, position) : nullptr;
    f.residual_stride = conv_.out_c;
    f.pixels = runs * (last - first), f.channels = conv_.lanes(block), f.activation = conv_.activation;
    kernels_.finish[static_cast<int>(conv_.in.storage)](f);
  }

  const Convolution<E>& conv_;
  const Window& window_;
  const Kernels<E>& kernels_;
  const bool grouped_;
  const SpatialFamily<E>& family_;
  const RunPlan<E> row_plan_;  // for rows that are not cut at their edges
  const BandPlan band_plan_;
  const int64_t multiplier_;
  const Clamp clamp_;
  const int64_t padded_w_;
};

}  // namespace

template <class E>
void run_spatial(const Convolution<E>& conv) {
  SpatialConv<E>(conv).run();
}

template void run_spatial(const Convolution<float>&);
template void run_spatial(const Convolution<Half>&);

}  // namespace convfirst
