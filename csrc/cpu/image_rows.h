// Copies of input rows, in the type of the arithmetic, with their zero padding: only what a tile needs, never the whole
// image.
#pragma once

#include "../shapes.h"
#include "microkernels/api.h"
#include "tensor.h"

namespace convfirst {

// A rectangle of one image: rows and columns may reach outside, where the copy holds zeros.
struct Patch {
  int64_t image, row, rows, column, columns;
};

// out[row][column][lane] of one channel block. With a channel multiplier, lane l holds channel (first_out + l) /
// multiplier.
template <class E>
void gather_block(const Kernels<E>& kernels, const ImageView& in, const Patch& patch, int64_t first_channel,
                  int64_t lanes, int64_t multiplier, E* out);

// out[row][column][C] with all channels.
template <class E>
void widen_patch(const Kernels<E>& kernels, const ImageView& in, const Patch& patch, E* out);

}  // namespace convfirst
