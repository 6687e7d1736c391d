// Tiles of a Winograd convolution that a task takes at a time.
#pragma once

#include "conv_plan.h"

namespace convfirst {

struct WinogradPlan {
  int64_t run_tiles;   // of a task
  int64_t parts;       // of the output channels, a task each
  int64_t sum_blocks;  // output blocks whose sums at all positions stay in the cache until they are transformed back
};

// Of `tiles` tiles with `positions` positions each.
WinogradPlan plan_winograd(const ConvShape& shape, int64_t tiles, int64_t positions, const CacheSizes& caches,
                           int64_t threads);

}  // namespace convfirst
