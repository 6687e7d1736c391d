// The weight gradient of a convolution, by leaping over the image with the stride instead of spreading the output's
// gradient with zeros (Sk-dilated of C-K-S, arXiv 2306.15951). Every kernel element sees the rows and columns that meet
// the image; their bounds are computed once. Sums are taken in the same order on any number of threads: these share
// kernel elements and channels, never pixels.
#include <algorithm>
#include <cstring>

#include "convolution_op.h"
#include "microkernels/isa.h"
#include "parallel.h"

namespace convfirst {
namespace {

constexpr int64_t kGroupPixels = 128;  // summed in registers before they join the rest

// Outputs [first, end) along one axis whose input pixel lies in the image, and that of output 0.
struct Reach {
  int64_t first, end, origin;
};

Reach reach_of(int64_t in, int64_t out, int64_t element, int64_t stride, int64_t dilation, int64_t before) {
  const int64_t origin = element * dilation - before;
  const int64_t first = std::clamp<int64_t>(origin >= 0 ? 0 : ceil_div(-origin, stride), 0, out);
  const int64_t end = in <= origin ? first : std::clamp<int64_t>(ceil_div(in - origin, stride), first, out);
  return {first, end, origin};
}

struct WeightGrad {
  const float* input;  // NHWC
  const float* grad;   // NHWC
  int64_t n, in_h, in_w, in_c, out_h, out_w, out_c, groups;
  Window window;

  int64_t group_in() const { return in_c / groups; }
  int64_t group_out() const { return out_c / groups; }
  int64_t taps() const { return window.kernel_h * window.kernel_w; }
  bool is_depthwise() const { return group_in() == 1 && group_out() == 1; }
};

class WeightGradRunner {
 public:
  explicit WeightGradRunner(const WeightGrad& g)
      : g_(g),
        kernels_(kernels_for<float>()),
        blocks_(ceil_div(g.is_depthwise() ? g.out_c : g.group_out(), kLanes)),
        most_rows_(largest_rows()),
        row_tiles_(g.is_depthwise() ? 1 : ceil_div(g.group_in(), most_rows_)),
        block_pairs_(g.is_depthwise() ? blocks_ : ceil_div(blocks_, pair_width())),
        lines_(std::max<int64_t>(1, kGroupPixels / g.out_w)) {}

  // Packed sums: [group][tap][block][row][16], which the caller has set to zero.
  void run(float* sums) const {
    const int64_t groups = g_.is_depthwise() ? 1 : g_.groups, units = groups * g_.taps() * block_pairs_ * row_tiles_;
    share_tasks(units, [&](int64_t begin, int64_t end) {
      std::vector<int64_t> runs(static_cast<size_t>(2 * lines_));
      for (int64_t line = 0; line < g_.n * g_.out_h; line += lines_) {
        run_lines(line, std::min(g_.n * g_.out_h, line + lines_), begin, end, runs.data(), sums);
      }
    });
  }

  int64_t sum_floats() const {
    const int64_t groups = g_.is_depthwise() ? 1 : g_.groups;
    return groups * g_.taps() * blocks_ * rows() * kLanes;
  }

  // Element (o, k, tap) of the result.
  float at(const float* sums, int64_t o, int64_t k, int64_t tap) const {
    const int64_t group = g_.is_depthwise() ? 0 : o / g_.group_out();
    const int64_t lane = g_.is_depthwise() ? o : o % g_.group_out();
    const int64_t block = (group * g_.taps() + tap) * blocks_ + lane / kLanes;
    return sums[(block * rows() + k) * kLanes + lane % kLanes];
  }

 private:
  int64_t rows() const { return g_.is_depthwise() ? 1 : g_.group_in(); }
  int64_t pair_width() const { return kernels_.outer[1][0] ? 2 : 1; }

  int64_t largest_rows() const {
    int64_t rows = kMaxOuterRows;
    while (!kernels_.outer[pair_width() - 1][rows - 1]) --rows;
    return rows;
  }

  // Units [begin, end) of output rows [first, last) of the batch; the runs of a kernel element serve all its channels.
  void run_lines(int64_t first, int64_t last, int64_t begin, int64_t end, int64_t* runs, float* sums) const {
    const int64_t of_tap = block_pairs_ * row_tiles_;
    int64_t count = 0, pixels = 0, built = -1;
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t tap = unit / of_tap % g_.taps();
      if (tap != built) {
        built = tap;
        pixels = find_runs(first, last, tap, runs, &count);
      }
      if (count && pixels) run_unit(unit / of_tap, unit % of_tap, runs, count, pixels, sums);
    }
  }

  // Offsets of the pixels that meet a kernel element, input's and gradient's; how many pixels every run has.
  int64_t find_runs(int64_t first, int64_t last, int64_t tap, int64_t* runs, int64_t* count) const {
    const Window& w = g_.window;
    const Reach y = reach_of(g_.in_h, g_.out_h, tap / w.kernel_w, w.stride_h, w.dilation_h, w.top);
    const Reach x = reach_of(g_.in_w, g_.out_w, tap % w.kernel_w, w.stride_w, w.dilation_w, w.left);
    *count = 0;
    for (int64_t line = first; line < last; ++line) {
      const int64_t image = line / g_.out_h, row = line % g_.out_h;
      if (row < y.first || row >= y.end) continue;
      const int64_t in_row = image * g_.in_h + row * w.stride_h + y.origin;
      runs[*count] = (in_row * g_.in_w + x.first * w.stride_w + x.origin) * g_.in_c;
      runs[lines_ + *count] = (line * g_.out_w + x.first) * g_.out_c;
      ++*count;
    }
    return x.end - x.first;
  }

  void run_unit(int64_t group_tap, int64_t part, const int64_t* runs, int64_t count, int64_t pixels,
                float* sums) const {
    OuterArgs<float> o{};
    o.a = g_.input, o.a_step = g_.window.stride_w * g_.in_c, o.b = g_.grad, o.b_step = g_.out_c;
    o.a_runs = runs, o.b_runs = runs + lines_, o.run_count = count, o.pixels = pixels;
    o.c_block = rows() * kLanes;
    if (g_.is_depthwise()) {
      o.a += part * kLanes, o.b += part * kLanes, o.c = sums + (group_tap * blocks_ + part) * kLanes;
      o.last_lanes = std::min<int64_t>(kLanes, g_.out_c - part * kLanes);
      return kernels_.inner(o);
    }
    const int64_t group = group_tap / g_.taps(), pair = part / row_tiles_, tile = part % row_tiles_;
    const int64_t block = pair * pair_width(), blocks = std::min(pair_width(), blocks_ - block);
    const int64_t row = g_.group_in() * tile / row_tiles_, end = g_.group_in() * (tile + 1) / row_tiles_;
    o.a += group * g_.group_in() + row, o.b += group * g_.group_out() + block * kLanes;
    o.c = sums + ((group_tap * blocks_ + block) * rows() + row) * kLanes;
    o.last_lanes = std::min<int64_t>(kLanes, g_.group_out() - (block + blocks - 1) * kLanes);
    kernels_.outer[blocks - 1][end - row - 1](o);
  }

  const WeightGrad& g_;
  const Kernels<float>& kernels_;
  const int64_t blocks_;  // of output channels, a group
  const int64_t most_rows_, row_tiles_, block_pairs_;
  const int64_t lines_;  // output rows summed in registers
};

Tensor strided_weight_grad(const Tensor input, const Tensor grad, const Ints kernel_size, const Ints stride,
                           const Ints padding, const Ints dilation, int64_t groups) {
  const ImageView in = view_nhwc(input, "input"), out = view_nhwc(grad, "grad");
  STD_TORCH_CHECK(in.storage == Storage::kFloat32 && out.storage == Storage::kFloat32,
                  "input and grad must have dtype float32.");
  STD_TORCH_CHECK(kernel_size.size() == 2, "kernel_size must be two numbers.");
  const Window w = window_of(kernel_size[0], kernel_size[1], stride, padding, dilation);
  check_output(w, in.h, in.w);
  STD_TORCH_CHECK(out.n == in.n && out.h == w.out_h(in.h) && out.w == w.out_w(in.w),
                  "grad must have the shape of the convolution's output.");
  STD_TORCH_CHECK(groups > 0 && in.c > 0 && out.c > 0 && in.c % groups == 0 && out.c % groups == 0,
                  "groups must divide the ", in.c, " input and ", out.c, " output channels, but is ", groups, ".");
  const WeightGrad g{static_cast<const float*>(in.data),
                     static_cast<const float*>(out.data),
                     in.n,
                     in.h,
                     in.w,
                     in.c,
                     out.h,
                     out.w,
                     out.c,
                     groups,
                     w};
  const int64_t sizes[] = {out.c, g.group_in(), w.kernel_h, w.kernel_w};
  const int64_t strides[] = {g.group_in() * g.taps(), g.taps(), w.kernel_w, 1};
  Tensor result = empty_strided(sizes, strides, 4, aoti_torch_dtype_float32());
  const WeightGradRunner runner(g);
  float* sums = weight_scratch(runner.sum_floats());
  std::memset(sums, 0, static_cast<size_t>(runner.sum_floats()) * sizeof(float));
  runner.run(sums);
  float* to = static_cast<float*>(result.mutable_data_ptr());
  for_each_task(out.c, [&](int64_t o) {
    for (int64_t k = 0; k < g.group_in(); ++k) {
      for (int64_t tap = 0; tap < g.taps(); ++tap)
        to[(o * g.group_in() + k) * g.taps() + tap] = runner.at(sums, o, k, tap);
    }
  });
  return result;
}

STABLE_TORCH_LIBRARY_IMPL(convfirst, CPU, m) { m.impl("strided_weight_grad", TORCH_BOX(&strided_weight_grad)); }

}  // namespace
}  // namespace convfirst
