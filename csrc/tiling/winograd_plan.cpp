#include "winograd_plan.h"

#include <algorithm>

#include "forced_tiles.h"

namespace convfirst {
namespace {

constexpr int64_t kTile = 14;            // rows of the usual register block
constexpr int64_t kMostRun = 2 * kTile;  // so many use a loaded weight often enough for it to come from the last cache

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

WinogradPlan plan_winograd(const ConvShape& s, int64_t tiles, int64_t positions, const CacheSizes& caches,
                           int64_t threads) {
  const int64_t blocks = ceil_div(s.out_c, s.lanes);
  WinogradPlan plan{};
  if (tiles < kTile * threads) {
    plan.run_tiles = std::min(tiles, kMostRun);
  } else {
    const int64_t runs = ceil_div(ceil_div(tiles, kMostRun), threads) * threads;
    plan.run_tiles = ceil_div(tiles, runs);
  }
  if (const int64_t run = forced_tiles().run_pixels) plan.run_tiles = std::min(run, tiles);
  plan.parts = column_parts(ceil_div(tiles, plan.run_tiles), blocks, threads);
  const int64_t block_bytes = positions * plan.run_tiles * s.lanes * s.element_bytes;
  plan.sum_blocks = std::min(blocks, std::max<int64_t>(2, caches.l2 / 4 / block_bytes / 2 * 2));
  return plan;
}

}  // namespace convfirst
