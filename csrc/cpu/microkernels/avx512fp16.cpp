// Microkernels for AVX512-FP16 (2023 and later).
#include "isa.h"
#include "target_region.h"

#if defined(__x86_64__)
#include <immintrin.h>

CONVFIRST_BEGIN_TARGET("avx,avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512fp16")

namespace convfirst {
namespace avx512fp16 {
#include "simd/avx512fp16.h"
// clang-format off: the parts build on each other in this order
#include "gemm.inl"
#include "spatial.inl"
#include "activation.inl"
#include "passes.inl"
#include "table.inl"
// clang-format on
}  // namespace avx512fp16

const KernelTable* avx512fp16_kernels() {
  static const KernelTable table = avx512fp16::make_table("avx512fp16");
  return &table;
}
}  // namespace convfirst

CONVFIRST_END_TARGET
#else
const convfirst::KernelTable* convfirst::avx512fp16_kernels() { return nullptr; }
#endif
