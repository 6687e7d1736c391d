// The instruction set in use: chosen once at load, CONVFIRST_CPU_ISA overrides.
#pragma once

#include "api.h"

namespace convfirst {

constexpr int kIsaCount = 4;

// Names from the plainest to the richest.
const char* isa_name(int index);

// nullptr where this build or this CPU lacks it.
const KernelTable* kernels_of(int index);

// The table in use. Throws std::runtime_error naming CONVFIRST_CPU_ISA when its value cannot be honoured.
const KernelTable& kernels();

// Its kernels for arithmetic in E.
template <class E>
const Kernels<E>& kernels_for();
template <>
inline const Kernels<float>& kernels_for<float>() {
  return kernels().fp32;
}
template <>
inline const Kernels<Half>& kernels_for<Half>() {
  return *kernels().fp16;
}

}  // namespace convfirst
