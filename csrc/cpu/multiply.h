// Matrix product of any number of pixels and output channels out of register blocks.
#pragma once

#include "microkernels/api.h"

namespace convfirst {

// The clamp that an activation amounts to inside a kernel, or none where it needs a pass of its own.
struct Clamp {
  float low, high;
  bool exact;  // identity, relu, relu6
};
Clamp clamp_of(Activation activation);

// Runs g over `pixels` pixels and `blocks` blocks of 16 output channels; g's pointers stand at the first of each.
void multiply(const KernelTable& kernels, const GemmArgs& g, int64_t pixels, int64_t blocks);

}  // namespace convfirst
