// Large tensors out of memory that is kept when they are freed. A training step frees what it allocated; given back to
// the system and taken again, every page costs a fault and a clearing, which can take longer than the convolution that
// fills it.
#pragma once

#include "tensor.h"

namespace convfirst {

// An (n, c, h, w) float32 tensor in channels_last order.
Tensor empty_kept(int64_t n, int64_t c, int64_t h, int64_t w);

// An (n, c, h, w) tensor in channels_last order with the dtype of like. Its memory is kept where the C library would
// map it anew on every call.
Tensor empty_result(const Tensor& like, int64_t n, int64_t c, int64_t h, int64_t w);

// Gives back to the system what no tensor uses; returns how many bytes that were.
int64_t release_kept_memory();

}  // namespace convfirst
