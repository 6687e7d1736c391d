// Microkernels for AVX-512 F, BW, DQ and VL (2017 and later).
#include "isa.h"
#include "target_region.h"

#if defined(__x86_64__)
#include <immintrin.h>

CONVFIRST_BEGIN_TARGET("avx,avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")

namespace convfirst {
namespace avx512 {
// clang-format off: the parts build on each other in this order
#include "simd/avx512.h"
#include "simd/half_emulated.h"
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
}  // namespace avx512

const KernelTable* avx512_kernels() {
  static const Kernels<Half> half = avx512::make_kernels<Half>();
  static const KernelTable table = {"avx512", avx512::make_kernels<float>(), &half, HalfArithmetic::kEmulated};
  return &table;
}
}  // namespace convfirst

CONVFIRST_END_TARGET
#else
const convfirst::KernelTable* convfirst::avx512_kernels() { return nullptr; }
#endif
