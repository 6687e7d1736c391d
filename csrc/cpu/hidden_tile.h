// One thread's tile of the hidden tensor: a ring of input rows after the expansion, and the convolved rows.
#pragma once

#include "fused_block.h"
#include "spatial_run.h"

namespace convfirst {

class HiddenTile {
 public:
  HiddenTile(const FusedBlock& block, const BlockPlan& plan, const KernelTable& kernels);

  // Floats of scratch that begin() wants.
  int64_t scratch_floats() const;

  // Starts hidden blocks [first, first + count) of an image; rows are then asked for from top to bottom.
  void begin(int64_t image, int64_t first, int64_t count, float* scratch);

  // Convolves output rows [y0, y1): out[block][pixel][16] with `out_block` floats between blocks, activated.
  void convolve(int64_t y0, int64_t y1, float* out, int64_t out_block);

 private:
  void fill_until(int64_t last_row, int64_t first_row);
  void fill_rows(int64_t row, int64_t rows);
  void convolve_rows(int64_t block, int64_t y0, int64_t y1, SpatialArgs& s);
  void expand_rows(int64_t row, int64_t rows, float* target);
  float* ring_row(int64_t row) const { return ring_ + row % ring_rows_ * padded_w_ * kLanes; }

  const FusedBlock& block_;
  const KernelTable& kernels_;
  const Clamp clamp_;
  const RunPlan run_plan_;
  const int64_t padded_w_, ring_rows_, ring_block_;
  int64_t most_blocks_;
  int64_t image_ = 0, first_ = 0, count_ = 0;
  int64_t filled_ = 0;  // input rows below this are in the ring
  float* ring_ = nullptr;
  float* widened_ = nullptr;
};

}  // namespace convfirst
