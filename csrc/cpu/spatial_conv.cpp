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
        sum_clamp_(clamp_of(conv.sum_activation)),
        streams_(conv.streams()),
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

  // Where a pixel of one channel block lies: at `origin` that of input row `row` and the first column read.
  struct Source {
    const E* origin;
    int64_t row, row_step, pixel_step;
  };

  void run_band(int64_t image, int64_t block, int64_t y0, int64_t y1) const {
    const int64_t gathered = ((y1 - y0 - 1) * window_.stride_h + window_.span_h()) * padded_w_ * kLanes;
    E* scratch = task_scratch<E>(gathered + kRowsAtOnce * conv_.out_w * kLanes);
    E* rows_out = scratch + gathered;
    if (!in_place(block)) return run_copied(image, block, {y0, y1, 0, conv_.out_w}, scratch, rows_out);
    // Outputs [first, last) see inside columns only.
    const int64_t first = std::min(conv_.out_w, ceil_div(window_.left, window_.stride_w));
    const int64_t reach = conv_.in.w + window_.left - window_.span_w();
    const int64_t last = reach < 0 ? first : std::clamp<int64_t>(reach / window_.stride_w + 1, first, conv_.out_w);
    run_copied(image, block, {y0, y1, 0, first}, scratch, rows_out);
    run_copied(image, block, {y0, y1, last, conv_.out_w}, scratch, rows_out);
    const int64_t pixel = image * conv_.in.h * conv_.in.w + first * window_.stride_w - window_.left;
    const E* origin = static_cast<const E*>(conv_.in.data) + pixel * conv_.in.c + block * kLanes;
    run_part(image, block, {y0, y1, first, last}, {origin, 0, conv_.in.w * conv_.in.c, conv_.in.c}, rows_out);
  }

  // Output rows [y0, y1), columns [first, last).
  struct Part {
    int64_t y0, y1, first, last;
  };

  void run_copied(int64_t image, int64_t block, const Part& part, E* copy, E* rows_out) const {
    if (part.first >= part.last) return;
    const int64_t top = part.y0 * window_.stride_h - window_.top;
    const int64_t rows = (part.y1 - part.y0 - 1) * window_.stride_h + window_.span_h();
    const int64_t columns = (part.last - part.first - 1) * window_.stride_w + window_.span_w();
    const Patch patch{image, top, rows, part.first * window_.stride_w - window_.left, columns};
    gather_block(kernels_, conv_.in, patch, block * kLanes, conv_.lanes(block), multiplier_, copy);
    run_part(image, block, part, {copy, top, columns * kLanes, kLanes}, rows_out);
  }

  void run_part(int64_t image, int64_t block, const Part& part, const Source& source, E* rows_out) const {
    if (part.first >= part.last) return;
    const E* rows[kRowsAtOnce * kMaxKernelRows];
    for (int64_t y0 = part.y0; y0 < part.y1; y0 += kRowsAtOnce) {
      const int64_t y1 = std::min(part.y1, y0 + kRowsAtOnce);
      for (int64_t y = y0; y < y1; ++y) {
        for (int64_t ky = 0; ky < window_.kernel_h; ++ky) {
          const int64_t in_y = y * window_.stride_h - window_.top + ky * window_.dilation_h;
          const bool outside = in_y < 0 || in_y >= conv_.in.h;
          rows[(y - y0) * window_.kernel_h + ky] =
              outside ? nullptr : source.origin + (in_y - source.row) * source.row_step;
        }
      }
      run_span(image, block, y0, y1 - y0, part.first, part.last, rows, source.pixel_step, rows_out);
    }
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
    s.low = clamp_.low, s.high = clamp_.high, s.streams = streams_;
    const int64_t outputs = last - first;
    const bool whole = outputs == conv_.out_w;
    convolve_run(whole ? row_plan_ : plan_run(family_, window_, outputs), window_, s, outputs);
    if (direct) return;
    // Rows that were not cut follow each other.
    const int64_t pieces = whole ? 1 : runs, pixels = runs * outputs / pieces;
    for (int64_t piece = 0; piece < pieces; ++piece) {
      finish(row_out + piece * pixels * kLanes, position + piece * conv_.out_w * conv_.out_c, block, pixels);
    }
  }

  void finish(const E* sums, int64_t position, int64_t block, int64_t pixels) const {
    FinishArgs<E> f{};
    f.in = sums, f.in_stride = kLanes, f.out = offset(conv_.out, conv_.in.storage, position);
    f.out_stride = f.residual_stride = conv_.out_c;
    f.residual = conv_.residual ? offset(conv_.residual, conv_.in.storage, position) : nullptr;
    f.pixels = pixels, f.channels = conv_.lanes(block), f.activation = conv_.activation;
    f.sum_low = sum_clamp_.low, f.sum_high = sum_clamp_.high;
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
  const Clamp clamp_, sum_clamp_;
  const bool streams_;
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
