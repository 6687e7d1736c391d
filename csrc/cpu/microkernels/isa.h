// The instruction set in use: chosen once at load, CONVFIRST_CPU_ISA overrides.
#pragma once

#include "api.h"

namespace convfirst {

template <class T>
struct StorageOf;
template <>
struct StorageOf<float> {
  static constexpr Storage value = Storage::kFloat32;
};
template <>
struct StorageOf<BFloat16> {
  static constexpr Storage value = Storage::kBFloat16;
};
template <>
struct StorageOf<Half> {
  static constexpr Storage value = Storage::kFloat16;
};

constexpr int kIsaCount = 4;

// Names from the plainest to the richest.
const char* isa_name(int index);

// nullptr where this build or this CPU lacks it.
const KernelTable* kernels_of(int index);

// The table in use. Throws std::runtime_error naming CONVFIRST_CPU_ISA when its value cannot be honoured.
const KernelTable& kernels();

}  // namespace convfirst
