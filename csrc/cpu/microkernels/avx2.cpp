// Microkernels for AVX2 with FMA and F16C (2013 and later).
#include "isa.h"
#include "target_region.h"

#if defined(__x86_64__)
#include <immintrin.h>

CONVFIRST_BEGIN_TARGET("avx,avx2,fma,f16c")

namespace convfirst {
namespace avx2 {
#include "simd/avx2.h"
// clang-format off: the parts build on each other in this order
#include "gemm.inl"
#include "spatial.inl"
#include "activation.inl"
#include "passes.inl"
#include "table.inl"
// clang-format on
}  // namespace avx2

const KernelTable* avx2_kernels() {
  static const KernelTable table = avx2::make_table("avx2");
  return &table;
}
}  // namespace convfirst

CONVFIRST_END_TARGET
#else
const convfirst::KernelTable* convfirst::avx2_kernels() { return nullptr; }
#endif
