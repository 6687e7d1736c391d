// One thread's way down the output rows of a fused inverted residual: tile by tile of hidden channels, convolved and
// added to the sums of the rows, as long as its caller asks for rows that follow each other.
#pragma once

#include "fused_block.h"
#include "hidden_tile.h"
#include "projection.h"

namespace convfirst {

template <class E>
Projection<E> projection_of(const FusedBlock<E>& block, const E* weights) {
  return {weights,          block.project_bias, block.hidden, block.out_c,    block.output_activation,
          block.in.storage, block.residual,     block.out,    block.streams()};
}

// Multiplies blocks of `pixels` pixels by their channels' factors.
template <class E>
void scale_blocks(const Kernels<E>& kernels, E* values, int64_t pixels, int64_t blocks, const E* factors) {
  for (int64_t b = 0; b < blocks; ++b) {
    kernels.scale(values + b * pixels * kLanesOf<E>, pixels, factors + b * kLanesOf<E>);
  }
}

// The block's image, residual and output may move between calls; the block itself stays where it is.
template <class E>
class Strip {
 public:
  Strip(const FusedBlock<E>& block, const BlockPlan& plan);

  // Floats of scratch where at most `rows` rows are projected at a time.
  int64_t scratch_floats(int64_t rows) const;
  void begin(float* scratch, int64_t rows);

  // Output rows [y0, y1) of image n, gated unless gate is null.
  void project(int64_t n, int64_t y0, int64_t y1, const E* gate);

  // Calls body(first row, end, first hidden block, count) for the tiles of rows [y0, y1), which lie in rows().
  template <class Body>
  void each_tile(int64_t n, int64_t y0, int64_t y1, const Body& body) {
    const bool continues = one_chunk() && n == image_ && y0 == next_row_;
    for (int64_t first = 0; first < block_.hidden_blocks(); first += plan_.hidden_blocks) {
      const int64_t left = block_.hidden_blocks() - first,
                    count = left < plan_.hidden_blocks ? left : plan_.hidden_blocks;
      if (!continues) tile_.begin(n, first, count, ring_);
      for (int64_t y = y0, end; y < y1; y = end) {
        end = y + plan_.row_group < y1 ? y + plan_.row_group : y1;
        tile_.convolve(y, end, rows_, (end - y) * block_.out_w * kLanes);
        body(y, end, first, count);
      }
    }
    image_ = n, next_row_ = y1;
  }
  // [hidden block][pixel][lane] of the last tile.
  E* rows() const { return rows_; }

 private:
  static constexpr int64_t kLanes = kLanesOf<E>;

  // Then a ring that was filled for some rows serves the next.
  bool one_chunk() const { return plan_.hidden_blocks >= block_.hidden_blocks(); }
  int64_t ring_floats() const;
  int64_t row_floats() const;
  int64_t sum_pixels(int64_t rows) const;

  const FusedBlock<E>& block_;
  const BlockPlan plan_;
  const Kernels<E>& kernels_;
  HiddenTile<E> tile_;
  E* ring_ = nullptr;
  E* rows_ = nullptr;
  float* sums_ = nullptr;
  int64_t* taps_ = nullptr;
  int64_t image_ = -1, next_row_ = -1;
};

}  // namespace convfirst
