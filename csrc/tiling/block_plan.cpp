// Chooses the tiles of a fused block from the cache sizes.
#include "block_plan.h"

#include <algorithm>

#if defined(__linux__)
#include <unistd.h>
#endif

namespace convfirst {
namespace {

constexpr int64_t kLanes = 16;
constexpr int64_t kFloat = 4;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

#if defined(__linux__) && defined(_SC_LEVEL1_DCACHE_SIZE)
int64_t system_size(int name, int64_t fallback) {
  const long size = sysconf(name);
  return size > 0 ? size : fallback;
}
CacheSizes read_sizes() {
  return {system_size(_SC_LEVEL1_DCACHE_SIZE, 32 << 10), system_size(_SC_LEVEL2_CACHE_SIZE, 512 << 10),
          system_size(_SC_LEVEL3_CACHE_SIZE, 8 << 20)};
}
#else
CacheSizes read_sizes() { return {32 << 10, 512 << 10, 8 << 20}; }
#endif

// Enough pixels that the projection fills its register blocks.
constexpr int64_t kProjectionPixels = 28;

}  // namespace

const CacheSizes& cache_sizes() {
  static const CacheSizes sizes = read_sizes();
  return sizes;
}

int64_t ring_rows(const BlockShape& shape, const BlockPlan& plan) {
  return (plan.row_group - 1) * shape.stride_h + shape.span_h;
}

BlockPlan plan_block(const BlockShape& shape, const CacheSizes& caches) {
  const int64_t blocks = ceil_div(shape.hidden, kLanes);
  const int64_t kept_bytes = shape.out_h * shape.out_w * blocks * kLanes * kFloat;
  BlockPlan plan{};
  const int64_t small_map = caches.l2 / 2;
  plan.keeps_hidden = kept_bytes <= (shape.squeezes ? caches.l3 / 4 : small_map);
  plan.row_group = std::min(shape.out_h, ceil_div(kProjectionPixels, shape.out_w));
  if (plan.keeps_hidden && shape.out_h * shape.out_w <= 400) plan.row_group = shape.out_h;
  // The ring of hidden rows is written and read again at once: it should stay near the L1 cache.
  const int64_t ring_bytes = ring_rows(shape, plan) * shape.padded_w * kLanes * kFloat;
  plan.hidden_blocks = std::clamp<int64_t>(2 * caches.l1 / std::max<int64_t>(ring_bytes, 1), 2, blocks);
  plan.hidden_blocks = std::min(plan.hidden_blocks, blocks);
  // Partial sums of a strip are visited once per chunk of hidden channels.
  const int64_t sum_bytes = shape.out_w * ceil_div(shape.out_c, kLanes) * kLanes * kFloat;
  const int64_t fitting = std::max<int64_t>(1, caches.l2 / 4 / sum_bytes);
  plan.strip_rows = plan.hidden_blocks == blocks ? shape.out_h : std::min(shape.out_h, std::max(plan.row_group, fitting));
  return plan;
}

}  // namespace convfirst
