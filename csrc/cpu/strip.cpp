// Walks down output rows, see strip.h.
#include "strip.h"

#include "microkernels/isa.h"
#include "parallel.h"

namespace convfirst {

template <class E>
Strip<E>::Strip(const FusedBlock<E>& block, const BlockPlan& plan)
    : block_(block), plan_(plan), kernels_(kernels_for<E>()), tile_(block, plan, kernels_) {}

template <class E>
int64_t Strip<E>::ring_floats() const {
  return floats_for<E>(ceil_div(tile_.scratch_elements(), kLanes) * kLanes);
}

template <class E>
int64_t Strip<E>::row_floats() const {
  return floats_for<E>(plan_.hidden_blocks * plan_.row_group * block_.out_w * kLanes);
}

// Partial sums outlive a tile only where several chunks add to them.
template <class E>
int64_t Strip<E>::sum_pixels(int64_t rows) const {
  return (one_chunk() ? plan_.row_group : rows) * block_.out_w;
}

template <class E>
int64_t Strip<E>::scratch_floats(int64_t rows) const {
  const int64_t sums = sum_pixels(rows) * block_.out_blocks() * kLanes;
  const int64_t taps = projection_of(block_, block_.project_weights).tap_floats(block_.hidden_blocks());
  return ring_floats() + row_floats() + sums + ceil_div(taps, kLanes) * kLanes;
}

template <class E>
void Strip<E>::begin(float* scratch, int64_t rows) {
  ring_ = reinterpret_cast<E*>(scratch);
  rows_ = reinterpret_cast<E*>(scratch + ring_floats());
  sums_ = scratch + ring_floats() + row_floats();
  taps_ = reinterpret_cast<int64_t*>(sums_ + sum_pixels(rows) * block_.out_blocks() * kLanes);
  image_ = -1;
}

template <class E>
void Strip<E>::project(int64_t n, int64_t y0, int64_t y1, const E* gate) {
  const Projection<E> layer = projection_of(block_, block_.project_weights);
  each_tile(n, y0, y1, [&](int64_t y, int64_t end, int64_t first, int64_t count) {
    const int64_t pixels = (end - y) * block_.out_w;
    if (gate) scale_blocks(kernels_, rows_, pixels, count, gate + first * kLanes);
    ProjectionPart<E> p{};
    p.hidden = rows_, p.hidden_block = pixels * kLanes, p.first = first, p.count = count;
    p.sums = sums_ + (one_chunk() ? 0 : (y - y0) * block_.out_w * kLanes);
    p.sum_block = sum_pixels(y1 - y0) * kLanes, p.taps = taps_, p.pixels = pixels;
    p.position = (n * block_.out_h + y) * block_.out_w, p.block = 0, p.blocks = block_.out_blocks();
    convfirst::project(kernels_, layer, p);
  });
}

template class Strip<float>;
template class Strip<Half>;

}  // namespace convfirst
