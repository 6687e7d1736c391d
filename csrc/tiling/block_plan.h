// Tiles of a fused inverted residual: how much of the hidden tensor exists at a time.
#pragma once

#include <cstdint>

namespace convfirst {

struct CacheSizes {
  int64_t l1, l2, l3;  // bytes of data a core can count on; l3 shared
};

// Read once from the machine; a conservative guess where it does not tell.
const CacheSizes& cache_sizes();

// The shape of a fused block as the planner sees it; heights and widths in pixels, channels in elements.
struct BlockShape {
  int64_t in_w, in_c, hidden, out_c;
  int64_t out_h, out_w;
  int64_t span_h, stride_h, padded_w;
  bool expands, squeezes;
};

struct BlockPlan {
  bool keeps_hidden;     // the image's hidden tensor stays in the cache between two phases
  int64_t row_group;     // output rows computed together
  int64_t strip_rows;    // output rows that share one pass over the hidden channels
  int64_t hidden_blocks; // 16-channel blocks of the hidden tensor in flight
};

BlockPlan plan_block(const BlockShape& shape, const CacheSizes& caches);

// Scratch a task needs under a plan, in floats: a function of the tile, not of the image height or batch.
int64_t ring_rows(const BlockShape& shape, const BlockPlan& plan);

}  // namespace convfirst
