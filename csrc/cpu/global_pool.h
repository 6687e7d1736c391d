// The mean of every channel over an image's pixels.
#pragma once

#include "tensor.h"

namespace convfirst {

struct GlobalPool {
  ImageView in;
  void* out;  // (N, C) in the storage of in
};

void run_global_pool(const GlobalPool& pool);

}  // namespace convfirst
