// One thread's tile of the hidden tensor: a ring of input rows after the expansion, and the convolved rows.
#pragma once

#include "fused_block.h"
#include "spatial_run.h"

namespace convfirst {

template <class E>
class HiddenTile {
 public:
  HiddenTile(const FusedBlock<E>& block, const BlockPlan& plan, const Kernels<E>& kernels);

  // Elements of scratch that begin() wants.
  int64_t scratch_elements() const;

  // Starts hidden blocks [first, first + count) of an image; rows are then asked for from top to bottom.
  void begin(int64_t image, int64_t first, int64_t count, E* scratch);

  // Convolves output rows [y0, y1): out[block][pixel][lane] with `out_block` elements between blocks, activated.
  void convolve(int64_t y0, int64_t y1, E* out, int64_t out_block);

 private:
  static constexpr int64_t kLanes = kLanesOf<E>;

  void fill_until(int64_t last_row, int64_t first_row);
  void fill_rows(int64_t row, int64_t rows);
  void convolve_rows(int64_t block, int64_t y0, int64_t y1, SpatialArgs<E>& s);
  void expand_rows(int64_t row, int64_t rows, E* target);
  E* ring_row(int64_t row) const { return ring_ + row % ring_rows_ * padded_w_ * kLanes; }

  const FusedBlock<E>& block_;
  const Kernels<E>& kernels_;
  const Clamp clamp_;
  const RunPlan<E> run_plan_;
  const int64_t padded_w_, ring_rows_, ring_block_;
  int64_t most_blocks_;
  int64_t image_ = 0, first_ = 0, count_ = 0;
  int64_t filled_ = 0;  // input rows below this are in the ring
  E* ring_ = nullptr;
  E* widened_ = nullptr;
};

}  // namespace convfirst
