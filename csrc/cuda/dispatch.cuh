// From a tensor's dtype to the type that a kernel is compiled for.
#pragma once

#include "window.h"

namespace convfirst::cuda {

// run(T{}) for the storage's type.
template <class Run>
auto for_storage(Storage storage, const Run& run) {
  if (storage == Storage::kFloat16) return run(Half{});
  return storage == Storage::kBFloat16 ? run(BFloat16{}) : run(float{});
}

// The same without fp32, for tensor cores.
template <class Run>
auto for_half_storage(Storage storage, const Run& run) {
  return storage == Storage::kFloat16 ? run(Half{}) : run(BFloat16{});
}

}  // namespace convfirst::cuda
