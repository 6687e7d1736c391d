// Microkernels for AVX512-FP16 (2023 and later).
#include "isa.h"
#include "target_region.h"

#if defined(CONVFIRST_KNOWS_AVX512FP16)
#include <immintrin.h>

CONVFIRST_BEGIN_TARGET("avx,avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512fp16")

namespace convfirst {
namespace avx512fp16 {
// clang-format off: the parts build on each other in this order
#include "simd/avx512fp16.h"
#include "simd/half_native.h"
#include "simd/avx512_half.h"
#include "vec.inl"
#include "gemm.inl"
#include "outer.inl"
#include "spatial.inl"
#include "winograd.inl"
#include "activation.inl"
#include "passes.inl"
#include "norm.inl"
#include "table.inl"
// clang-format on
}  // namespace avx512fp16

const KernelTable* avx512fp16_kernels() {
  static const Kernels<Half> half = avx512fp16::make_kernels<Half>();
  static const KernelTable table = {"avx512fp16", avx512fp16::make_kernels<float>(), &half, HalfArithmetic::kNative};
  return &table;
}
}  // namespace convfirst

CONVFIRST_END_TARGET
#else
const convfirst::KernelTable* convfirst::avx512fp16_kernels() { return nullptr; }
#endif
