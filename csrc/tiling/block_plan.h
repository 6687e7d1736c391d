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
  int64_t images;
  int64_t in_h, in_w, in_c, hidden, out_c;
  int64_t out_h, out_w;
  int64_t span_h, stride_h, padded_w;
  int64_t taps;  // products of the spatial convolution an output
  bool expands, squeezes;
  int64_t lanes = 16;  // channels in a block of 64 bytes: 16 fp32, 32 fp16
};

struct BlockPlan {
  bool keeps_hidden;      // the image's hidden tensor stays in the cache between two phases
  int64_t row_group;      // output rows computed together
  int64_t strip_rows;     // output rows that share one pass over the hidden channels
  int64_t hidden_blocks;  // 16-channel blocks of the hidden tensor in flight
  int64_t bands;          // parts of the rows that threads keep to themselves, 1: they share hidden channels
};

// A pure function of its arguments. Every plan computes the same bits: only the order of independent work changes.
BlockPlan plan_block(const BlockShape& shape, const CacheSizes& caches, int64_t threads);

// The plan of rows that a thread computes one below the other, whatever plan_block would choose.
BlockPlan plan_strips(const BlockShape& shape, const CacheSizes& caches);

// Input rows that a hidden tile keeps: what one row group of outputs reaches.
int64_t ring_rows(const BlockShape& shape, const BlockPlan& plan);

}  // namespace convfirst
