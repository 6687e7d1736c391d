// Runs a fused inverted residual under its plan, in one of two orders:
// strips: a thread takes output rows and loops over chunks of hidden channels, adding each chunk's projection to the
//   strip's sums. With squeeze-excite it goes over the strips twice, as the paper does: once for the sums, once more
//   with the gate, computing the hidden rows anew.
// kept: where an image's hidden tensor fits in the cache, phase one convolves chunks of hidden channels, the gate is
//   applied in place, and phase two projects blocks of pixels. Nothing is computed twice.
// Either way a sum is taken in the same order whatever the number of threads.
#include "fused_block.h"

#include <algorithm>
#include <cstring>

#include "hidden_tile.h"
#include "microkernels/isa.h"
#include "parallel.h"
#include "projection.h"
#include "strip.h"

namespace convfirst {
namespace {

template <class E>
class Runner {
 public:
  Runner(const FusedBlock<E>& block, const BlockPlan& plan)
      : block_(block),
        plan_(plan),
        kernels_(kernels_for<E>()),
        pixels_(block.out_h * block.out_w),
        hidden_blocks_(block.hidden_blocks()) {}

  void run() const {
    const int64_t threads = thread_count(), images = block_.in.n;
    if (plan_.keeps_hidden) {
      const bool by_image = images >= 4 * threads || images % threads == 0;
      if (by_image) return for_each_task(images, [&](int64_t n) { run_kept(n); });
      for (int64_t n = 0; n < images; ++n) run_kept(n);
    } else if (block_.se.reduce_weights) {
      for (int64_t n = 0; n < images; ++n) run_twice(n);
    } else {
      run_strips(0, images * block_.out_h, nullptr);
    }
  }

 private:
  static constexpr int64_t kLanes = kLanesOf<E>;

  int64_t chunk_count() const { return ceil_div(hidden_blocks_, plan_.hidden_blocks); }
  int64_t padded_hidden() const { return hidden_blocks_ * kLanes; }

  // --- strips ---------------------------------------------------------------------------------------------------

  // Output rows [first, last) of the batch, gated unless gate is null.
  void run_strips(int64_t first, int64_t last, const E* gate) const {
    share_tasks(last - first, [&](int64_t begin, int64_t end) {
      for_strips(first + begin, first + end,
                 [&](int64_t n, int64_t y0, int64_t y1) { project_strip(n, y0, y1, gate); });
    });
  }

  // Cuts a range of rows at image boundaries and at the strip height.
  template <class Body>
  void for_strips(int64_t begin, int64_t end, const Body& body) const {
    for (int64_t row = begin; row < end;) {
      const int64_t n = row / block_.out_h, y0 = row % block_.out_h;
      const int64_t y1 = std::min({block_.out_h, y0 + (end - row), y0 + plan_.strip_rows});
      body(n, y0, y1);
      row += y1 - y0;
    }
  }

  void project_strip(int64_t n, int64_t y0, int64_t y1, const E* gate) const {
    Strip<E> strip(block_, plan_);
    strip.begin(task_scratch(strip.scratch_floats(y1 - y0)), y1 - y0);
    strip.project(n, y0, y1, gate);
  }

  // --- two passes over strips -------------------------------------------------------------------------------------

  void run_twice(int64_t n) const {
    const int64_t hidden = padded_hidden();
    // Sums a row: their total does not depend on how rows were shared.
    float* row_sums = call_scratch(se_floats());
    float* totals = row_sums + hidden * block_.out_h;
    E* gate = reinterpret_cast<E*>(totals + hidden);
    share_tasks(block_.out_h, [&](int64_t begin, int64_t end) {
      for_strips(n * block_.out_h + begin, n * block_.out_h + end,
                 [&](int64_t, int64_t y0, int64_t y1) { squeeze_strip(n, y0, y1, row_sums); });
    });
    add_row_sums(row_sums, totals);
    excite(kernels_, block_, totals, pixels_, gate + hidden, gate);
    run_strips(n * block_.out_h, (n + 1) * block_.out_h, gate);
  }

  // Row sums and totals in fp32; gate, means and bottleneck.
  int64_t se_floats() const {
    const int64_t squeezed = ceil_div(block_.se.squeezed, kLanes) * kLanes;
    return padded_hidden() * (block_.out_h + 1) + floats_for<E>(2 * padded_hidden() + squeezed);
  }

  void squeeze_strip(int64_t n, int64_t y0, int64_t y1, float* row_sums) const {
    Strip<E> strip(block_, plan_);
    strip.begin(task_scratch(strip.scratch_floats(0)), 0);
    strip.each_tile(n, y0, y1, [&](int64_t y, int64_t end, int64_t first, int64_t count) {
      sum_rows(strip.rows(), (end - y) * block_.out_w * kLanes, y, end, first, count, row_sums);
    });
  }

  // row_sums[hidden block][row][lane] from convolved rows [y, end).
  void sum_rows(const E* rows, int64_t block_step, int64_t y, int64_t end, int64_t first, int64_t count,
                float* row_sums) const {
    for (int64_t b = 0; b < count; ++b) {
      for (int64_t r = y; r < end; ++r) {
        float* total = row_sums + ((first + b) * block_.out_h + r) * kLanes;
        std::memset(total, 0, kLanes * sizeof(float));
        kernels_.sum(rows + b * block_step + (r - y) * block_.out_w * kLanes, block_.out_w, total);
      }
    }
  }

  void add_row_sums(const float* row_sums, float* totals) const {
    std::memset(totals, 0, static_cast<size_t>(padded_hidden()) * sizeof(float));
    for (int64_t row = 0; row < hidden_blocks_ * block_.out_h; ++row) {
      float* total = totals + row / block_.out_h * kLanes;
      for (int64_t lane = 0; lane < kLanes; ++lane) total[lane] += row_sums[row * kLanes + lane];
    }
  }

  // --- kept hidden tensor -----------------------------------------------------------------------------------------

  void run_kept(int64_t n) const {
    const bool squeezes = block_.se.reduce_weights != nullptr;
    const int64_t hidden = padded_hidden(), kept = hidden * pixels_;
    const int64_t squeeze = squeezes ? se_floats() : 0;
    const int64_t gated = squeezes && gates_weights() ? block_.out_blocks() * block_.hidden * kLanes : 0;
    float* base = call_scratch(floats_for<E>(kept) + squeeze + floats_for<E>(gated));
    E* hidden_image = reinterpret_cast<E*>(base);
    float* row_sums = base + floats_for<E>(kept);
    for_each_task(plan_.bands * chunk_count(), [&](int64_t task) {
      const int64_t band = task / chunk_count(), y0 = block_.out_h * band / plan_.bands;
      const int64_t y1 = block_.out_h * (band + 1) / plan_.bands;
      convolve_chunk(n, task % chunk_count(), y0, y1, hidden_image, squeezes ? row_sums : nullptr);
    });
    if (squeezes) {
      float* totals = row_sums + hidden * block_.out_h;
      E* gate = reinterpret_cast<E*>(totals + hidden);
      add_row_sums(row_sums, totals);
      excite(kernels_, block_, totals, pixels_, gate + hidden, gate);
      E* weights = reinterpret_cast<E*>(row_sums + squeeze);
      if (gates_weights()) return project_image(n, hidden_image, gated_weights(gate, weights));
      for_each_task(chunk_count(), [&](int64_t chunk) {
        const int64_t first = chunk * plan_.hidden_blocks;
        scale_blocks(kernels_, hidden_image + first * pixels_ * kLanes, pixels_,
                     std::min(plan_.hidden_blocks, hidden_blocks_ - first), gate + first * kLanes);
      });
    }
    project_image(n, hidden_image, block_.project_weights);
  }

  void convolve_chunk(int64_t n, int64_t chunk, int64_t y0, int64_t y1, E* hidden_image, float* row_sums) const {
    HiddenTile<E> tile(block_, plan_, kernels_);
    E* scratch = task_scratch<E>(tile.scratch_elements());
    const int64_t first = chunk * plan_.hidden_blocks, count = std::min(plan_.hidden_blocks, hidden_blocks_ - first);
    const int64_t block_step = pixels_ * kLanes;
    tile.begin(n, first, count, scratch);
    for (int64_t y = y0; y < y1; y += plan_.row_group) {
      const int64_t end = std::min(y1, y + plan_.row_group);
      E* rows = hidden_image + first * block_step + y * block_.out_w * kLanes;
      tile.convolve(y, end, rows, block_step);
      if (row_sums) sum_rows(rows, block_step, y, end, first, count, row_sums);
    }
  }

  // The gate scales hidden channels: those of an image's activations, or of the projection's weights where these are
  // fewer.
  bool gates_weights() const { return block_.out_blocks() * kLanes < pixels_; }

  const E* gated_weights(const E* gate, E* out) const {
    share_tasks(block_.out_blocks(), [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        const int64_t start = i * block_.hidden * kLanes;
        kernels_.rescale(block_.project_weights + start, block_.hidden, gate, out + start);
      }
    });
    return out;
  }

  void project_image(int64_t n, const E* hidden_image, const E* weights) const {
    constexpr int64_t kTaskPixels = 28;
    const Projection<E> layer = projection_of(block_, weights);
    const int64_t threads = thread_count();
    const bool by_pixels = pixels_ >= threads * kTaskPixels;
    const int64_t run = by_pixels ? ceil_div(pixels_, ceil_div(pixels_, threads * 4 * kTaskPixels) * threads) : pixels_;
    const int64_t runs = ceil_div(pixels_, run), parts = by_pixels ? 1 : std::min(threads, block_.out_blocks());
    for_each_task(runs * parts, [&](int64_t task) {
      const int64_t first = task % runs * run, count = std::min(run, pixels_ - first), part = task / runs;
      const int64_t tap_floats = layer.tap_floats(hidden_blocks_);
      const int64_t begin = block_.out_blocks() * part / parts, end = block_.out_blocks() * (part + 1) / parts;
      float* base = task_scratch(tap_floats + count * (end - begin) * kLanes);
      ProjectionPart<E> p{};
      p.hidden = hidden_image + first * kLanes, p.hidden_block = pixels_ * kLanes, p.first = 0,
      p.count = hidden_blocks_;
      p.taps = reinterpret_cast<int64_t*>(base);
      p.sums = base + tap_floats, p.sum_block = count * kLanes;
      p.pixels = count, p.position = n * pixels_ + first, p.block = begin, p.blocks = end - begin;
      if (p.blocks > 0 && count > 0) project(kernels_, layer, p);
    });
  }

  const FusedBlock<E>& block_;
  const BlockPlan plan_;
  const Kernels<E>& kernels_;
  const int64_t pixels_;
  const int64_t hidden_blocks_;
};

}  // namespace

template <class E>
BlockShape FusedBlock<E>::shape() const {
  BlockShape s{};
  s.lanes = kLanes;
  s.images = in.n, s.in_h = in.h, s.in_w = in.w, s.in_c = in.c, s.hidden = hidden, s.out_c = out_c, s.out_h = out_h,
  s.out_w = out_w;
  s.span_h = window.span_h(), s.stride_h = window.stride_h;
  s.padded_w = std::max(window.left + in.w, (out_w - 1) * window.stride_w + window.span_w());
  s.taps = window.kernel_h * window.kernel_w * (grouped8 ? 8 : 1);
  s.expands = expand_weights != nullptr, s.squeezes = se.reduce_weights != nullptr;
  return s;
}

template <class E>
void run_fused_block(const FusedBlock<E>& block) {
  Runner<E>(block, plan_block(block.shape(), cache_sizes(), thread_count())).run();
}

template struct FusedBlock<float>;
template struct FusedBlock<Half>;
template void run_fused_block(const FusedBlock<float>&);
template void run_fused_block(const FusedBlock<Half>&);

}  // namespace convfirst
