// Tiles of single convolutions: what a task takes at a time so that few bytes pass between a core's cache and the rest.
// The model is the slides' (Chen, Demmel, Dinh, Haberle, Holtz, PASC 2022) with what their program leaves out: halos,
// whole register tiles and equal shares for the threads.
#pragma once

#include <cstdint>

#include "block_plan.h"

namespace convfirst {

// The shape of a convolution as its planner sees it; heights and widths in pixels, channels in elements.
struct ConvShape {
  int64_t images;
  int64_t in_h, in_w, in_c;
  int64_t out_h, out_w, out_c;
  int64_t span_h, stride_h, padded_w;
  int64_t element_bytes = 4;
  int64_t lanes = 16;  // channels in a block of 64 bytes
};

// Runs of output pixels by parts of the output channels, a task each.
struct PointwisePlan {
  int64_t run_pixels;
  int64_t parts;
};

// Bands of output rows by channel blocks. The input rows of a band and block are copied side by side, unless they are
// so long that few fit into the cache.
struct BandPlan {
  int64_t band_rows;
  bool copies;
};

// Of (pixels x in_c) times (in_c x out_c), whose `column_blocks` blocks of output channels threads may share. A run's
// pixels are read for every block of channels, so they take at most `run_bytes`, of the L2 cache; the weights pass
// through it once a run.
PointwisePlan plan_pointwise(const ConvShape& shape, int64_t column_blocks, int64_t run_bytes, const CacheSizes& caches,
                             int64_t threads);

// Enough parts of the output channels that every thread has work, few enough that a task's input is read seldom.
int64_t column_parts(int64_t runs, int64_t blocks, int64_t threads);

// Whether results of so many bytes should pass the caches, which would lose them before they are read: memory is then
// not read before it is written.
bool streams_results(int64_t bytes, const CacheSizes& caches);

// Rows of a band of an image's `rows`, at most `most`: where threads share the bands of an image, each gets as many.
int64_t balanced_band(int64_t rows, int64_t most, int64_t images, int64_t threads);

// Of a depthwise convolution or group width 8.
BandPlan plan_bands(const ConvShape& shape, const CacheSizes& caches, int64_t threads);

}  // namespace convfirst
