// How a plane of outputs is cut into blocks: each takes one image, a chunk of 128 bytes of channels and a tile of
// columns, and walks down a strip of rows, 64 pixels a step.
#pragma once

#include "device/launch.cuh"
#include "row_ring.cuh"

namespace convfirst::cuda {

constexpr int kStepPixels = 64;

struct StripPlan {
  int chunks, column_tiles, strips;
  int tile_columns;  // 8, 16 or 32
  int strip_rows;    // a multiple of the rows of a step
  int ring_columns, ring_slots;

  __host__ __device__ int step_rows() const { return kStepPixels / tile_columns; }
  int64_t blocks(int images) const { return int64_t{images} * chunks * column_tiles * strips; }
};

// The part of the output that this block computes.
struct StripPlace {
  int chunk, column, row, end_row;
  int64_t image;

  CONVFIRST_DEVICE StripPlace(const StripPlan& plan, int rows) {
    unsigned left = blockIdx.x;
    const auto part = [&](int count) {
      const unsigned quotient = left / static_cast<unsigned>(count);
      const unsigned rest = left - quotient * static_cast<unsigned>(count);
      left = quotient;
      return static_cast<int>(rest);
    };
    chunk = part(plan.chunks);
    column = part(plan.column_tiles) * plan.tile_columns;
    row = part(plan.strips) * plan.strip_rows;
    image = left;
    end_row = row + plan.strip_rows < rows ? row + plan.strip_rows : rows;
  }
};

// What a block needs of its input for so many output columns.
struct RingNeeds {
  int columns, window_rows, step_rows;  // of a step's window, and how far it moves
};

constexpr int64_t kMostRingBytes = 64 << 10;  // beyond it a strip is one step, which needs no room for the next

// needs(tile_columns) tells what a block reads; column_bytes is the ring's.
template <class Needs>
StripPlan plan_strips(int images, int rows, int columns, int chunks, int64_t column_bytes, const Needs& needs) {
  StripPlan plan{};
  int64_t best = 0;
  for (const int tile : {32, 16, 8}) {
    const int tiles = ceil_div(columns, tile), step = kStepPixels / tile;
    const int64_t work = int64_t{tiles} * tile * ceil_div(rows, step) * step;
    if (best == 0 || work < best) best = work, plan.tile_columns = tile, plan.column_tiles = tiles;
  }
  plan.chunks = chunks;
  const int steps = ceil_div(rows, plan.step_rows());
  const RingNeeds ring = needs(plan.tile_columns);
  const int64_t bands = int64_t{images} * chunks * plan.column_tiles;
  int of_strip = static_cast<int>(ceil_div<int64_t>(steps, ceil_div(kEnoughBlocks, bands)));
  if (column_bytes * ring.columns * (ring.window_rows + ring.step_rows) > kMostRingBytes) of_strip = 1;
  plan.strip_rows = of_strip * plan.step_rows();
  plan.strips = ceil_div(steps, of_strip);
  plan.ring_columns = ring.columns;
  plan.ring_slots = ring.window_rows + (of_strip > 1 ? ring.step_rows : 0);
  return plan;
}

}  // namespace convfirst::cuda
