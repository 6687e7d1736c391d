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
#include <numeric>

#include "hidden_tile.h"
#include "microkernels/isa.h"
#include "parallel.h"

namespace convfirst {
namespace {

class Runner {
 public:
  Runner(const FusedBlock& block, const BlockPlan& plan)
      : block_(block),
        plan_(plan),
        kernels_(kernels()),
        output_clamp_(clamp_of(block.output_activation)),
        pixels_(block.out_h * block.out_w),
        hidden_blocks_(block.hidden_blocks()),
        depth_(std::gcd(block.hidden, static_cast<int64_t>(kLanes))) {}

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
  int64_t chunk_count() const { return ceil_div(hidden_blocks_, plan_.hidden_blocks); }
  int64_t padded_hidden() const { return hidden_blocks_ * kLanes; }

  // --- strips ---------------------------------------------------------------------------------------------------

  // Output rows [first, last) of the batch, gated unless gate is null.
  void run_strips(int64_t first, int64_t last, const float* gate) const {
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

  struct StripScratch {
    float* tile;    // hidden tile
    float* rows;    // convolved rows of one row group
    float* sums;    // strip's partial sums
    int64_t* taps;  // offsets of the projection's inputs
  };

  // Partial sums outlive a row group only where several chunks add to them.
  int64_t sum_pixels(int64_t strip_pixels) const {
    return chunk_count() > 1 ? strip_pixels : plan_.row_group * block_.out_w;
  }

  StripScratch strip_scratch(const HiddenTile& tile, int64_t strip_pixels) const {
    const int64_t tile_floats = ceil_div(tile.scratch_floats(), kLanes) * kLanes;
    const int64_t row_floats = plan_.hidden_blocks * plan_.row_group * block_.out_w * kLanes;
    const int64_t sum_floats = strip_pixels * block_.out_blocks() * kLanes;
    const int64_t tap_floats = 2 * ceil_div(padded_hidden(), depth_);
    float* base = task_scratch(tile_floats + row_floats + sum_floats + tap_floats);
    return {base, base + tile_floats, base + tile_floats + row_floats,
            reinterpret_cast<int64_t*>(base + tile_floats + row_floats + sum_floats)};
  }

  void project_strip(int64_t n, int64_t y0, int64_t y1, const float* gate) const {
    HiddenTile tile(block_, plan_, kernels_);
    const int64_t strip_pixels = (y1 - y0) * block_.out_w;
    const int64_t sum_block = sum_pixels(strip_pixels) * kLanes;
    const bool chunked = chunk_count() > 1;
    const StripScratch scratch = strip_scratch(tile, sum_pixels(strip_pixels));
    for (int64_t first = 0; first < hidden_blocks_; first += plan_.hidden_blocks) {
      const int64_t count = std::min(plan_.hidden_blocks, hidden_blocks_ - first);
      tile.begin(n, first, count, scratch.tile);
      for (int64_t y = y0; y < y1; y += plan_.row_group) {
        const int64_t end = std::min(y1, y + plan_.row_group), pixels = (end - y) * block_.out_w;
        tile.convolve(y, end, scratch.rows, pixels * kLanes);
        if (gate) apply_gate(scratch.rows, pixels, first, count, gate);
        Projection p{};
        p.hidden = scratch.rows, p.hidden_block = pixels * kLanes, p.first = first, p.count = count;
        p.sums = scratch.sums + (chunked ? (y - y0) * block_.out_w * kLanes : 0), p.sum_block = sum_block;
        p.taps = scratch.taps, p.pixels = pixels, p.position = n * pixels_ + y * block_.out_w;
        p.block = 0, p.blocks = block_.out_blocks(), p.weights = block_.project_weights;
        project(p);
      }
    }
  }

  // --- two passes over strips -------------------------------------------------------------------------------------

  void run_twice(int64_t n) const {
    const int64_t hidden = padded_hidden();
    // Sums a row: their total does not depend on how rows were shared.
    float* row_sums = call_scratch(hidden * (block_.out_h + 3) + ceil_div(block_.se.squeezed, kLanes) * kLanes);
    float* totals = row_sums + hidden * block_.out_h;
    float* gate = totals + hidden;
    share_tasks(block_.out_h, [&](int64_t begin, int64_t end) {
      for_strips(n * block_.out_h + begin, n * block_.out_h + end,
                 [&](int64_t, int64_t y0, int64_t y1) { squeeze_strip(n, y0, y1, row_sums); });
    });
    add_row_sums(row_sums, totals);
    excite(kernels_, block_, totals, pixels_, gate + hidden, gate);
    run_strips(n * block_.out_h, (n + 1) * block_.out_h, gate);
  }

  void squeeze_strip(int64_t n, int64_t y0, int64_t y1, float* row_sums) const {
    HiddenTile tile(block_, plan_, kernels_);
    const StripScratch scratch = strip_scratch(tile, 0);
    for (int64_t first = 0; first < hidden_blocks_; first += plan_.hidden_blocks) {
      const int64_t count = std::min(plan_.hidden_blocks, hidden_blocks_ - first);
      tile.begin(n, first, count, scratch.tile);
      for (int64_t y = y0; y < y1; y += plan_.row_group) {
        const int64_t end = std::min(y1, y + plan_.row_group), block_floats = (end - y) * block_.out_w * kLanes;
        tile.convolve(y, end, scratch.rows, block_floats);
        sum_rows(scratch.rows, block_floats, y, end, first, count, row_sums);
      }
    }
  }

  // row_sums[hidden block][row][16] from convolved rows [y, end).
  void sum_rows(const float* rows, int64_t block_floats, int64_t y, int64_t end, int64_t first, int64_t count,
                float* row_sums) const {
    for (int64_t b = 0; b < count; ++b) {
      for (int64_t r = y; r < end; ++r) {
        float* total = row_sums + ((first + b) * block_.out_h + r) * kLanes;
        std::memset(total, 0, kLanes * sizeof(float));
        kernels_.sum(rows + b * block_floats + (r - y) * block_.out_w * kLanes, block_.out_w, total);
      }
    }
  }

  void add_row_sums(const float* row_sums, float* totals) const {
    std::memset(totals, 0, static_cast<size_t>(padded_hidden()) * sizeof(float));
    for (int64_t b = 0; b < hidden_blocks_; ++b) {
      kernels_.sum(row_sums + b * block_.out_h * kLanes, block_.out_h, totals + b * kLanes);
    }
  }

  void apply_gate(float* rows, int64_t pixels, int64_t first, int64_t count, const float* gate) const {
    for (int64_t b = 0; b < count; ++b) kernels_.scale(rows + b * pixels * kLanes, pixels, gate + (first + b) * kLanes);
  }

  // --- kept hidden tensor -----------------------------------------------------------------------------------------

  void run_kept(int64_t n) const {
    const bool squeezes = block_.se.reduce_weights != nullptr;
    const int64_t hidden = padded_hidden(), kept = hidden * pixels_;
    const int64_t se_floats =
        squeezes ? hidden * (block_.out_h + 3) + ceil_div(block_.se.squeezed, kLanes) * kLanes : 0;
    const int64_t gated = squeezes && gates_weights() ? block_.out_blocks() * block_.hidden * kLanes : 0;
    float* hidden_image = call_scratch(kept + se_floats + gated);
    float* row_sums = hidden_image + kept;
    for_each_task(plan_.bands * chunk_count(), [&](int64_t task) {
      const int64_t band = task / chunk_count(), y0 = block_.out_h * band / plan_.bands;
      const int64_t y1 = block_.out_h * (band + 1) / plan_.bands;
      convolve_chunk(n, task % chunk_count(), y0, y1, hidden_image, squeezes ? row_sums : nullptr);
    });
    if (squeezes) {
      float* totals = row_sums + hidden * block_.out_h;
      float* gate = totals + hidden;
      add_row_sums(row_sums, totals);
      excite(kernels_, block_, totals, pixels_, gate + hidden, gate);
      if (gates_weights()) return project_image(n, hidden_image, gated_weights(gate, row_sums + se_floats));
      for_each_task(chunk_count(), [&](int64_t chunk) {
        const int64_t first = chunk * plan_.hidden_blocks;
        apply_gate(hidden_image + first * pixels_ * kLanes, pixels_, first,
                   std::min(plan_.hidden_blocks, hidden_blocks_ - first), gate);
      });
    }
    project_image(n, hidden_image, block_.project_weights);
  }

  void convolve_chunk(int64_t n, int64_t chunk, int64_t y0, int64_t y1, float* hidden_image, float* row_sums) const {
    HiddenTile tile(block_, plan_, kernels_);
    float* scratch = task_scratch(tile.scratch_floats());
    const int64_t first = chunk * plan_.hidden_blocks, count = std::min(plan_.hidden_blocks, hidden_blocks_ - first);
    const int64_t block_floats = pixels_ * kLanes;
    tile.begin(n, first, count, scratch);
    for (int64_t y = y0; y < y1; y += plan_.row_group) {
      const int64_t end = std::min(y1, y + plan_.row_group);
      float* rows = hidden_image + first * block_floats + y * block_.out_w * kLanes;
      tile.convolve(y, end, rows, block_floats);
      if (row_sums) sum_rows(rows, block_floats, y, end, first, count, row_sums);
    }
  }

  // The gate scales hidden channels: those of an image's activations, or of the projection's weights where these are
  // fewer.
  bool gates_weights() const { return block_.out_blocks() * kLanes < pixels_; }

  const float* gated_weights(const float* gate, float* out) const {
    share_tasks(block_.out_blocks(), [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        const int64_t start = i * block_.hidden * kLanes;
        kernels_.rescale(block_.project_weights + start, block_.hidden, gate, out + start);
      }
    });
    return out;
  }

  void project_image(int64_t n, const float* hidden_image, const float* weights) const {
    constexpr int64_t kTaskPixels = 28;
    const int64_t threads = thread_count();
    const bool by_pixels = pixels_ >= threads * kTaskPixels;
    const int64_t run = by_pixels ? ceil_div(pixels_, ceil_div(pixels_, threads * 4 * kTaskPixels) * threads) : pixels_;
    const int64_t runs = ceil_div(pixels_, run), parts = by_pixels ? 1 : std::min(threads, block_.out_blocks());
    for_each_task(runs * parts, [&](int64_t task) {
      const int64_t first = task % runs * run, count = std::min(run, pixels_ - first), part = task / runs;
      const int64_t tap_floats = 2 * ceil_div(padded_hidden(), depth_);
      const int64_t begin = block_.out_blocks() * part / parts, end = block_.out_blocks() * (part + 1) / parts;
      float* base = task_scratch(tap_floats + count * (end - begin) * kLanes);
      Projection p{};
      p.hidden = hidden_image + first * kLanes, p.hidden_block = pixels_ * kLanes, p.first = 0,
      p.count = hidden_blocks_;
      p.taps = reinterpret_cast<int64_t*>(base);
      p.sums = base + tap_floats, p.sum_block = count * kLanes;
      p.pixels = count, p.position = n * pixels_ + first, p.block = begin, p.blocks = end - begin;
      p.weights = weights;
      if (p.blocks > 0 && count > 0) project(p);
    });
  }

  // --- projection -------------------------------------------------------------------------------------------------

  struct Projection {
    const float* hidden;  // [hidden block][pixel][16]
    int64_t hidden_block;
    int64_t first, count;  // hidden blocks taken now
    const float* weights;  // packed, of all output blocks
    float* sums;           // [out block][pixel][16], partial sums or fp32 results to be finished
    int64_t sum_block;
    int64_t* taps;
    int64_t pixels;
    int64_t position;       // output pixel in the batch
    int64_t block, blocks;  // output blocks
  };

  // Taps of gcd(hidden, 16) channels, so that the last hidden block's padding is never multiplied.
  int64_t set_taps(const Projection& p) const {
    const int64_t channels = std::min(p.count * kLanes, block_.hidden - p.first * kLanes);
    const int64_t taps = channels / depth_;
    for (int64_t t = 0; t < taps; ++t) p.taps[t] = t * depth_ / kLanes * p.hidden_block + t * depth_ % kLanes;
    return taps;
  }

  void project(const Projection& p) const {
    const bool starts = p.first == 0, ends = p.first + p.count == hidden_blocks_;
    const bool direct = ends && output_clamp_.exact && block_.in.storage == Storage::kFloat32;
    const int64_t element = p.position * block_.out_c + p.block * kLanes;
    void* out = offset(block_.out, block_.in.storage, element);
    const void* residual = block_.residual ? offset(block_.residual, block_.in.storage, element) : nullptr;
    GemmArgs g{};
    g.a = p.hidden, g.a_stride = kLanes, g.taps = p.taps, g.tap_count = set_taps(p), g.depth = depth_;
    g.b = p.weights + (p.block * block_.hidden + p.first * kLanes) * kLanes;
    g.b_block = block_.hidden * kLanes;
    g.init = starts ? block_.project_bias + p.block * kLanes : p.sums;
    g.init_stride = starts ? 0 : kLanes, g.init_block = starts ? kLanes : p.sum_block;
    g.c = direct ? static_cast<float*>(out) : p.sums;
    g.c_stride = direct ? block_.out_c : kLanes, g.c_block = direct ? kLanes : p.sum_block;
    g.residual = direct ? static_cast<const float*>(residual) : nullptr, g.residual_stride = block_.out_c;
    const Clamp clamp = ends ? output_clamp_ : clamp_of(Activation::kIdentity);
    g.low = clamp.low, g.high = clamp.high;
    const bool tail = p.block + p.blocks == block_.out_blocks();
    g.last_lanes = tail ? block_.last_out_lanes() : kLanes;
    multiply(kernels_, g, p.pixels, p.blocks);
    if (!ends || direct) return;
    FinishArgs f{};
    f.in = p.sums, f.in_stride = kLanes, f.in_block = p.sum_block, f.out = out, f.out_stride = block_.out_c;
    f.residual = residual, f.residual_stride = block_.out_c, f.pixels = p.pixels;
    f.channels = tail ? (p.blocks - 1) * kLanes + block_.last_out_lanes() : p.blocks * kLanes;
    f.activation = block_.output_activation;
    kernels_.finish[static_cast<int>(block_.in.storage)](f);
  }

  const FusedBlock& block_;
  const BlockPlan plan_;
  const KernelTable& kernels_;
  const Clamp output_clamp_;
  const int64_t pixels_;
  const int64_t hidden_blocks_;
  const int64_t depth_;
};

}  // namespace

BlockShape FusedBlock::shape() const {
  BlockShape s{};
  s.images = in.n, s.in_h = in.h, s.in_w = in.w, s.in_c = in.c, s.hidden = hidden, s.out_c = out_c, s.out_h = out_h,
  s.out_w = out_w;
  s.span_h = window.span_h(), s.stride_h = window.stride_h;
  s.padded_w = std::max(window.left + in.w, (out_w - 1) * window.stride_w + window.span_w());
  s.taps = window.kernel_h * window.kernel_w * (grouped8 ? 8 : 1);
  s.expands = expand_weights != nullptr, s.squeezes = se.reduce_weights != nullptr;
  return s;
}

void run_fused_block(const FusedBlock& block) {
  Runner(block, plan_block(block.shape(), cache_sizes(), thread_count())).run();
}

}  // namespace convfirst
