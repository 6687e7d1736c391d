// Chooses the tiles of single convolutions from the cache sizes.
#include "conv_plan.h"

#include <algorithm>

#include "forced_tiles.h"

namespace convfirst {
namespace {

constexpr int64_t kTile = 14;      // pixels of the usual register block
constexpr int64_t kMostRun = 112;  // longer ones leave a thread waiting for the last task

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Bands of fewer rows than this copy most rows twice: they are read where they lie.
constexpr int64_t kLeastCopiedRows = 4;
constexpr int64_t kRowsInPlace = 8;

// Output rows whose input rows, of one channel block, take at most `bytes`.
int64_t fitting_rows(const ConvShape& s, int64_t bytes) {
  const int64_t rows = bytes / (s.padded_w * s.lanes * s.element_bytes);
  return std::clamp<int64_t>((rows - s.span_h) / s.stride_h + 1, 1, s.out_h);
}

// At most `most` pixels a run, and as many runs for each thread, in whole register tiles where there are enough.
int64_t balanced_run(int64_t pixels, int64_t most, int64_t threads) {
  if (pixels <= 4 * kTile) return pixels;
  const int64_t runs = ceil_div(ceil_div(pixels, most), threads) * threads;
  const int64_t run = ceil_div(pixels, runs);
  return run > 2 * kTile ? std::min(ceil_div(run, kTile) * kTile, most) : run;
}

}  // namespace

int64_t column_parts(int64_t runs, int64_t blocks, int64_t threads) {
  const int64_t wanted = runs >= threads ? 1 : ceil_div(threads, std::max<int64_t>(runs, 1));
  return std::clamp<int64_t>(wanted, 1, std::max<int64_t>(1, ceil_div(blocks, 2)));
}

PointwisePlan plan_pointwise(const ConvShape& s, int64_t column_blocks, int64_t run_bytes, const CacheSizes& caches,
                             int64_t threads) {
  const int64_t pixels = s.images * s.out_h * s.out_w, pixel_bytes = std::max<int64_t>(1, s.in_c * s.element_bytes);
  const int64_t fitting = std::max(run_bytes / pixel_bytes / kTile * kTile, kTile);
  const int64_t weight_bytes = column_blocks * s.lanes * pixel_bytes;
  // Weights that stay in the cache are read once, whatever the run; others once a run.
  const bool weights_stay = weight_bytes <= caches.l2 / 2;
  PointwisePlan plan{};
  if (!weights_stay && pixels <= fitting && pixels * pixel_bytes < weight_bytes && column_blocks >= 2 * threads) {
    plan = {pixels, threads};  // all read the pixels, each a share of the weights
  } else {
    const int64_t most = weights_stay ? std::min(fitting, kMostRun) : fitting;
    plan.run_pixels = std::max<int64_t>(1, balanced_run(pixels, most, threads));
    plan.parts = column_parts(ceil_div(pixels, plan.run_pixels), column_blocks, threads);
  }
  if (const int64_t run = forced_tiles().run_pixels) plan = {std::min(run, pixels), 1};
  if (const int64_t parts = forced_tiles().parts) plan.parts = std::clamp<int64_t>(parts, 1, column_blocks);
  return plan;
}

bool streams_results(int64_t bytes, const CacheSizes& caches) {
  if (const int64_t forced = forced_tiles().streams) return forced > 0;
  return bytes > caches.l3 / 2;
}

int64_t balanced_band(int64_t rows, int64_t most, int64_t images, int64_t threads) {
  int64_t bands = ceil_div(rows, most);
  if (bands > 1 && images % threads != 0) bands = std::min(ceil_div(bands, threads) * threads, rows);
  return ceil_div(rows, bands);
}

BandPlan plan_bands(const ConvShape& s, const CacheSizes& caches, int64_t threads) {
  const bool copies = fitting_rows(s, caches.l2 * 3 / 32) >= kLeastCopiedRows;
  if (const int64_t rows = forced_tiles().band_rows) return {std::min(rows, s.out_h), copies};
  const int64_t fitting = copies ? fitting_rows(s, caches.l2 / 4) : kRowsInPlace;
  return {balanced_band(s.out_h, fitting, s.images, threads), copies};
}

}  // namespace convfirst
