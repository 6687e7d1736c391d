// Convolutions and transposed convolutions that never meet a padded or inserted zero: their taps are those of the runs
// of either axis. Computed in fp32, whatever the storage.
#pragma once

#include <vector>

#include "axis_runs.h"
#include "tensor.h"

namespace convfirst {

struct SkippingConv {
  ImageView in;
  int64_t groups;
  int64_t out_c, out_h, out_w;
  int64_t kernel_h, kernel_w;
  std::vector<AxisRun> rows, columns;
  const float* weights;  // packed [block][kh][kw][k][16]
  const float* bias;     // padded to whole blocks
  const void* residual;  // nullptr: none; NHWC like out
  void* out;
  Activation activation;

  int64_t group_in() const { return in.c / groups; }
  int64_t group_out() const { return out_c / groups; }
  int64_t blocks() const { return ceil_div(out_c, kLanes); }
  bool is_depthwise() const { return groups == in.c && groups > 1; }
};

// Groups of one input channel with any multiplier, or one group, or groups of whole 16-channel output blocks.
void run_skipping(const SkippingConv& conv);

// The cases of it: all channels of a group at a time, one channel block at a time, and so few output channels that the
// lanes of a product are better filled with kernel elements.
void run_skipping_products(const SkippingConv& conv);
void run_skipping_depthwise(const SkippingConv& conv);
void run_skipping_scatter(const SkippingConv& conv);
bool scatter_is_cheaper(const SkippingConv& conv);

}  // namespace convfirst
