// Matrix product of any number of pixels and output channels out of register blocks.
#pragma once

#include "../tiling/conv_plan.h"
#include "microkernels/api.h"

namespace convfirst {

// The clamp that an activation amounts to inside a kernel, or none where it needs a pass of its own.
struct Clamp {
  float low, high;
  bool exact;  // identity, relu, relu6
};
Clamp clamp_of(Activation activation);

// Whether results pass the caches: whole cache lines that are stored once.
inline bool streams_to(const void* out, int64_t pixels, int64_t channels, int64_t element_bytes) {
  const bool whole_lines = channels * element_bytes % 64 == 0 && reinterpret_cast<uintptr_t>(out) % 64 == 0;
  return whole_lines && streams_results(pixels * channels * element_bytes, cache_sizes());
}

// Partial sums of a product whose channels come in parts. They are fp32; an fp16 kernel takes them apart from its fp16
// bias and results.
inline void start_from(GemmArgs<float>& g, const float* sums) { g.init = sums; }
inline void start_from(GemmArgs<Half>& g, const float* sums) { g.sums = sums; }
inline void leave_in(GemmArgs<float>& g, float* sums) { g.c = sums; }
inline void leave_in(GemmArgs<Half>& g, float* sums) { g.partial = sums; }

// Runs g over `pixels` pixels and `blocks` blocks of output channels; g's pointers stand at the first of each.
template <class E>
void multiply(const Kernels<E>& kernels, const GemmArgs<E>& g, int64_t pixels, int64_t blocks);

}  // namespace convfirst
