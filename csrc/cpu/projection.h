// The 1x1 convolution that ends a block: hidden activations in channel blocks, some of them at a time, to NHWC pixels.
#pragma once

#include "../shapes.h"
#include "multiply.h"
#include "tensor.h"

namespace convfirst {

// The whole layer; fp16 arithmetic takes fp16 storage only.
template <class E>
struct Projection {
  const E* weights;  // packed [out block][hidden][lane]
  const E* bias;
  int64_t hidden, out_c;
  Activation activation;
  Storage storage;       // of residual and out
  const void* residual;  // nullptr: none
  void* out;
  bool streams;  // results pass the caches

  static constexpr int64_t kLanes = kLanesOf<E>;
  int64_t hidden_blocks() const { return ceil_div(hidden, kLanes); }
  int64_t out_blocks() const { return ceil_div(out_c, kLanes); }
  // Floats of scratch for the taps of a part with this many hidden blocks.
  int64_t tap_floats(int64_t blocks) const;
};

// A part of it: hidden channels from `first` on are added to the sums of earlier parts, the last part gives the output.
template <class E>
struct ProjectionPart {
  const E* hidden;  // [hidden block][pixel][lane]
  int64_t hidden_block;
  int64_t first, count;  // hidden blocks
  float* sums;           // [out block][pixel][lane], where there are several parts or the storage is not E
  int64_t sum_block;
  int64_t* taps;  // scratch
  int64_t pixels;
  int64_t position;       // output pixel in the batch
  int64_t block, blocks;  // output blocks
};

template <class E>
void project(const Kernels<E>& kernels, const Projection<E>& layer, const ProjectionPart<E>& part);

}  // namespace convfirst
