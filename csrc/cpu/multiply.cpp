// Cuts a matrix product into register blocks.
#include "multiply.h"

#include <algorithm>
#include <limits>

namespace convfirst {
namespace {

int largest_rows(const GemmKernel* family) {
  for (int rows = kMaxGemmRows; rows > 0; --rows) {
    if (family[rows - 1]) return rows;
  }
  return 0;
}

// FMA slots that a register block takes a step of k: its loads when there are more of them than FMAs, and never fewer
// than the FMA latency hides.
int64_t step_cost(int64_t rows, int64_t blocks) { return std::max<int64_t>({rows * blocks, rows + blocks, 8}); }

int64_t product_cost(const KernelTable& kernels, int64_t pixels, int64_t blocks, int width) {
  const int64_t largest = largest_rows(kernels.gemm[width - 1]);
  if (!largest) return std::numeric_limits<int64_t>::max();
  const int64_t pieces = (pixels + largest - 1) / largest, rows = (pixels + pieces - 1) / pieces;
  const int64_t last = blocks % width;
  return pieces * (blocks / width * step_cost(rows, width) + (last ? step_cost(rows, last) : 0));
}

int best_width(const KernelTable& kernels, int64_t pixels, int64_t blocks) {
  static constexpr int kPreference[] = {2, 3, 4, 1};  // equal cost: two blocks need the fewest streams
  int best = 1;
  int64_t best_cost = std::numeric_limits<int64_t>::max();
  for (int width : kPreference) {
    if (width > blocks) continue;
    const int64_t cost = product_cost(kernels, pixels, blocks, width);
    if (cost < best_cost) best = width, best_cost = cost;
  }
  return best;
}

void multiply_blocks(const GemmKernel* family, GemmArgs g, int64_t pixels) {
  const int64_t largest = largest_rows(family);
  const int64_t pieces = (pixels + largest - 1) / largest, even = (pixels + pieces - 1) / pieces;
  for (int64_t left = pixels; left > 0;) {
    int64_t rows = std::min(left, even);
    while (!family[rows - 1]) --rows;
    family[rows - 1](g);
    left -= rows;
    g.a += rows * g.a_stride;
    g.c += rows * g.c_stride;
    if (g.c_row) {
      g.c += (g.c_column + rows) / g.c_row * g.c_gap;
      g.c_column = (g.c_column + rows) % g.c_row;
    }
    g.init += rows * g.init_stride;
    if (g.residual) g.residual += rows * g.residual_stride;
  }
}

// Weights that stay in the L1 cache leave the order free: all channels of some pixels, then the next pixels, writes
// memory in the order it lies.
constexpr int64_t kCachedWeights = 4096;
constexpr int64_t kPixelsAtOnce = 28;

void multiply_all_blocks(const KernelTable& kernels, const GemmArgs& g, int64_t pixels, int64_t blocks, int width) {
  const int64_t whole = g.last_lanes <= kHalfLanes ? blocks - 1 : blocks;
  for (int64_t block = 0; block < blocks;) {
    const int64_t taken = block < whole ? std::min<int64_t>(width, whole - block) : 1;
    GemmArgs part = g;
    part.b += block * g.b_block;
    part.init += block * g.init_block;
    part.c += block * g.c_block;
    if (part.residual) part.residual += block * g.c_block;
    if (block + taken < blocks) part.last_lanes = kLanes;
    multiply_blocks(block < whole ? kernels.gemm[taken - 1] : kernels.gemm_half, part, pixels);
    block += taken;
  }
}

}  // namespace

Clamp clamp_of(Activation activation) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  switch (activation) {
    case Activation::kIdentity: return {-kInfinity, kInfinity, true};
    case Activation::kRelu: return {0.0f, kInfinity, true};
    case Activation::kRelu6: return {0.0f, 6.0f, true};
    default: return {-kInfinity, kInfinity, false};
  }
}

void multiply(const KernelTable& kernels, const GemmArgs& g, int64_t pixels, int64_t blocks) {
  if (pixels <= 0 || blocks <= 0) return;
  const int64_t whole = g.last_lanes <= kHalfLanes ? blocks - 1 : blocks;
  const bool streams = g.c_block == kLanes && !g.c_row && blocks > 2 && blocks * g.b_block <= kCachedWeights;
  const int64_t step = streams ? kPixelsAtOnce : pixels;
  const int width = best_width(kernels, std::min(step, pixels), whole);
  GemmArgs part = g;
  for (int64_t done = 0; done < pixels; done += step) {
    part.a = g.a + done * g.a_stride, part.c = g.c + done * g.c_stride, part.init = g.init + done * g.init_stride;
    if (g.residual) part.residual = g.residual + done * g.residual_stride;
    multiply_all_blocks(kernels, part, std::min(step, pixels - done), blocks, width);
  }
}

}  // namespace convfirst
