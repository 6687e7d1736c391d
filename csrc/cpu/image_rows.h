// Copies of input rows in fp32 with their zero padding: only what a tile needs, never the whole image.
#pragma once

#include "../shapes.h"
#include "microkernels/api.h"
#include "tensor.h"

namespace convfirst {

// A rectangle of one image: rows and columns may reach outside, where the copy holds zeros.
struct Patch {
  int64_t image, row, rows, column, columns;
};

// out[row][column][16] of one channel block. With a channel multiplier, lane l holds channel (first_out + l) /
// multiplier.
void gather_block(const KernelTable& kernels, const ImageView& in, const Patch& patch, int64_t first_channel,
                  int64_t lanes, int64_t multiplier, float* out);

// out[row][column][C] with all channels.
void widen_patch(const KernelTable& kernels, const ImageView& in, const Patch& patch, float* out);

}  // namespace convfirst
