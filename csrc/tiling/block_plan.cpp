// Chooses the tiles of a fused block from the cache sizes.
#include "block_plan.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <string>

#include "forced_tiles.h"

namespace convfirst {
namespace {

constexpr int64_t kBlockBytes = 64;
constexpr int64_t kFloat = 4;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

constexpr CacheSizes kUnknownCaches = {32 << 10, 512 << 10, 8 << 20};

std::string first_word(const std::string& path) {
  std::ifstream file(path);
  std::string word;
  file >> word;
  return word;
}

// Linux tells a cache's size as "32K". The C library's sysconf counts a shared cache once a core on some machines.
int64_t size_of(const std::string& text) {
  const long long number = std::strtoll(text.c_str(), nullptr, 10);
  return text.empty() ? 0 : number * (text.back() == 'M' ? 1 << 20 : text.back() == 'K' ? 1 << 10 : 1);
}

CacheSizes read_sizes() {
  CacheSizes sizes = kUnknownCaches;
  for (int index = 0; index < 8; ++index) {
    const std::string folder = "/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(index) + "/";
    const std::string level = first_word(folder + "level");
    const int64_t size = size_of(first_word(folder + "size"));
    if (level.empty()) break;
    if (size <= 0 || first_word(folder + "type") == "Instruction") continue;
    if (level == "1") sizes.l1 = size;
    if (level == "2") sizes.l2 = size;
    if (level == "3") sizes.l3 = size;
  }
  return sizes;
}

// Output pixels of a row group: enough to fill the projection's register blocks several times over.
constexpr int64_t kGroupPixels = 56;

// Bands of fewer rows than this many kernel heights would expand too many rows twice.
constexpr int64_t kBandSpans = 4;

// A product in the spatial convolution takes about this much longer than one in a matrix product.
constexpr double kSpatialCost = 1.5;
// Products a core could have done while a byte of another core's cache arrives, and while threads meet once.
constexpr double kSharedByteCost = 1.0;
constexpr double kMeetingCost = 1e5;

int64_t hidden_blocks(const BlockShape& s) { return ceil_div(s.hidden, s.lanes); }

double expand_products(const BlockShape& s, int64_t in_rows) {
  return s.expands ? static_cast<double>(in_rows * s.in_w * s.in_c) * static_cast<double>(s.hidden) : 0.0;
}

// Products of the busiest thread where rows are shared: neighbours expand the rows between them twice.
double strips_cost(const BlockShape& s, int64_t threads) {
  const int64_t rows = ceil_div(s.images * s.out_h, threads);
  const int64_t reached = s.images > 1 ? rows * s.stride_h : (rows - 1) * s.stride_h + s.span_h;
  const double outputs = static_cast<double>(rows * s.out_w) * static_cast<double>(s.hidden);
  return expand_products(s, std::min(reached, s.images * s.in_h)) +
         outputs * (kSpatialCost * static_cast<double>(s.taps) + static_cast<double>(s.out_c));
}

// The same where hidden channels are shared, then pixels or output channels.
double kept_cost(const BlockShape& s, int64_t threads) {
  const double share = 1.0 / static_cast<double>(threads);
  const double hidden = static_cast<double>(s.out_h * s.out_w) * static_cast<double>(s.hidden);
  const double products =
      expand_products(s, s.in_h) + hidden * (kSpatialCost * static_cast<double>(s.taps) + static_cast<double>(s.out_c));
  const double element_bytes = static_cast<double>(kBlockBytes) / static_cast<double>(s.lanes);
  const double shared_bytes = hidden * element_bytes * (1.0 - share) * share;
  return static_cast<double>(s.images) * (products * share + shared_bytes * kSharedByteCost + kMeetingCost);
}

// Chunks of hidden channels for a ring that stays within `bytes`, as many for each thread.
int64_t chunk_blocks(const BlockShape& s, const BlockPlan& plan, int64_t bytes, int64_t threads) {
  const int64_t ring_bytes = ring_rows(s, plan) * s.padded_w * kBlockBytes;
  const int64_t fitting = std::clamp<int64_t>(bytes / ring_bytes, 1, hidden_blocks(s));
  const int64_t chunks = ceil_div(ceil_div(hidden_blocks(s), fitting), threads) * threads;
  return ceil_div(hidden_blocks(s), chunks);
}

BlockPlan kept_plan(const BlockShape& s, const CacheSizes& caches, int64_t threads) {
  BlockPlan plan{true, s.out_h, s.out_h, 0, 1};
  if (s.out_h * s.out_w > 4 * kGroupPixels) plan.row_group = ceil_div(kGroupPixels, s.out_w);
  if (s.squeezes && threads > 1 && s.out_h / threads >= kBandSpans * s.span_h) plan.bands = threads;
  plan.hidden_blocks = chunk_blocks(s, plan, caches.l2 / 4, plan.bands > 1 ? 1 : threads);
  return plan;
}

// Sizes that a measurement forces; sums of a strip then need all its rows wherever chunks add to them.
BlockPlan with_forced_sizes(const BlockShape& s, BlockPlan plan) {
  const int64_t rows = forced_tiles().row_group, blocks = forced_tiles().hidden_blocks;
  if (rows)
    plan.row_group = std::clamp<int64_t>(rows, 1, s.out_h), plan.strip_rows = std::max(plan.strip_rows, plan.row_group);
  if (blocks) plan.hidden_blocks = std::clamp<int64_t>(blocks, 1, hidden_blocks(s));
  return plan;
}

}  // namespace

const CacheSizes& cache_sizes() {
  static const CacheSizes sizes = read_sizes();
  return sizes;
}

int64_t ring_rows(const BlockShape& shape, const BlockPlan& plan) {
  return (plan.row_group - 1) * shape.stride_h + shape.span_h;
}

BlockPlan plan_strips(const BlockShape& s, const CacheSizes& caches) {
  BlockPlan plan{false, std::min(s.out_h, ceil_div(kGroupPixels, s.out_w)), s.out_h, 0, 1};
  plan.hidden_blocks = chunk_blocks(s, plan, caches.l2 / 2, 1);
  if (plan.hidden_blocks == hidden_blocks(s)) return plan;
  // Several chunks add to a strip's partial sums, which should stay cached from one to the next.
  const int64_t sum_bytes = s.out_w * ceil_div(s.out_c, s.lanes) * s.lanes * kFloat;
  plan.strip_rows = std::clamp<int64_t>(caches.l2 / 4 / sum_bytes, plan.row_group, s.out_h);
  return plan;
}

BlockPlan plan_block(const BlockShape& shape, const CacheSizes& caches, int64_t threads) {
  const int64_t kept_bytes = shape.out_h * shape.out_w * hidden_blocks(shape) * kBlockBytes;
  const bool by_image = shape.images >= 4 * threads || shape.images % threads == 0;
  bool keeps;
  if (shape.squeezes) {
    keeps = kept_bytes <= caches.l3 / 4;
  } else {
    keeps = kept_bytes <= caches.l2 && kept_cost(shape, threads) < strips_cost(shape, threads);
  }
  if (const int64_t forced = forced_tiles().keeps_hidden) keeps = forced > 0;
  const BlockPlan plan = keeps ? kept_plan(shape, caches, by_image ? 1 : threads) : plan_strips(shape, caches);
  return with_forced_sizes(shape, plan);
}

}  // namespace convfirst
