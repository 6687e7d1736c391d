// Cuts a matrix product into register blocks.
#include "multiply.h"

#include <algorithm>
#include <limits>

namespace convfirst {
namespace {

// FMA slots that a register block takes a step of k: its loads when there are more of them than FMAs, and never fewer
// than the FMA latency hides.
int64_t step_cost(int64_t rows, int64_t blocks) { return std::max<int64_t>({rows * blocks, rows + blocks, 8}); }

template <class E>
int64_t product_cost(const Kernels<E>& kernels, int64_t pixels, int64_t blocks, int width) {
  const int64_t largest = kernels.most_rows[width - 1];
  if (!largest) return std::numeric_limits<int64_t>::max();
  const int64_t pieces = (pixels + largest - 1) / largest, rows = (pixels + pieces - 1) / pieces;
  const int64_t last = blocks % width;
  return pieces * (blocks / width * step_cost(rows, width) + (last ? step_cost(rows, last) : 0));
}

template <class E>
int best_width(const Kernels<E>& kernels, int64_t pixels, int64_t blocks) {
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

// Moves a product by pixels and blocks.
template <class E>
void advance(GemmArgs<E>& g, int64_t pixels, int64_t blocks) {
  const int64_t init = pixels * g.init_stride + blocks * g.init_block, c = pixels * g.c_stride + blocks * g.c_block;
  g.a += pixels * g.a_stride;
  g.b += blocks * g.b_block;
  g.sums ? void(g.sums += init) : void(g.init += init);
  g.partial ? void(g.partial += c) : void(g.c += c);
  if (g.residual) g.residual += pixels * g.residual_stride + blocks * g.c_block;
}

template <class E>
void multiply_blocks(const GemmKernel<E>* family, int64_t largest, GemmArgs<E> g, int64_t pixels) {
  const int64_t pieces = (pixels + largest - 1) / largest, even = (pixels + pieces - 1) / pieces;
  for (int64_t left = pixels; left > 0;) {
    int64_t rows = std::min(left, even);
    while (!family[rows - 1]) --rows;
    family[rows - 1](g);
    left -= rows;
    advance(g, rows, 0);
    if (g.c_row) {
      g.c += (g.c_column + rows) / g.c_row * g.c_gap;
      g.c_column = (g.c_column + rows) % g.c_row;
    }
  }
}

// Weights that stay in the L1 cache leave the order free: all channels of some pixels, then the next pixels, writes
// memory in the order it lies.
constexpr int64_t kCachedWeightBytes = 16384;
constexpr int64_t kPixelsAtOnce = 28;

template <class E>
void multiply_all_blocks(const Kernels<E>& kernels, const GemmArgs<E>& g, int64_t pixels, int64_t blocks, int width) {
  const int64_t whole = g.last_lanes <= kNarrowLanesOf<E> ? blocks - 1 : blocks;
  for (int64_t block = 0; block < blocks;) {
    const int64_t taken = block < whole ? std::min<int64_t>(width, whole - block) : 1;
    GemmArgs<E> part = g;
    advance(part, 0, block);
    if (block + taken < blocks) part.last_lanes = kLanesOf<E>;
    const bool narrow = block >= whole;
    multiply_blocks<E>(narrow ? kernels.gemm_narrow : kernels.gemm[taken - 1],
                       narrow ? kernels.most_narrow_rows : kernels.most_rows[taken - 1], part, pixels);
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

template <class E>
void multiply(const Kernels<E>& kernels, const GemmArgs<E>& g, int64_t pixels, int64_t blocks) {
  if (pixels <= 0 || blocks <= 0) return;
  const int64_t whole = g.last_lanes <= kNarrowLanesOf<E> ? blocks - 1 : blocks;
  const int64_t weight_bytes = blocks * g.b_block * static_cast<int64_t>(sizeof(E));
  const bool streams = g.c_block == kLanesOf<E> && !g.c_row && blocks > 2 && weight_bytes <= kCachedWeightBytes;
  const int64_t step = streams ? kPixelsAtOnce : pixels;
  const int width = best_width(kernels, std::min(step, pixels), whole);
  GemmArgs<E> part = g;
  for (int64_t done = 0; done < pixels; done += step) {
    multiply_all_blocks(kernels, part, std::min(step, pixels - done), blocks, width);
    advance(part, step, 0);
  }
}

template void multiply(const Kernels<float>&, const GemmArgs<float>&, int64_t, int64_t);
template void multiply(const Kernels<Half>&, const GemmArgs<Half>&, int64_t, int64_t);

}  // namespace convfirst
