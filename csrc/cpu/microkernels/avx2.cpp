// Microkernels for AVX2 with FMA and F16C (2013 and later).
#include "isa.h"
#include "target_region.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define CONVFIRST_BORROWS_HALF
CONVFIRST_BEGIN_TARGET("avx,avx2,fma,f16c")

namespace convfirst {
namespace avx2 {
// clang-format off: the parts build on each other in this order
#include "simd/avx2.h"
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
}  // namespace avx2

const KernelTable* avx2_kernels() {
  static const KernelTable table = {"avx2", avx2::make_kernels<float>(), portable_kernels()->fp16,
                                    HalfArithmetic::kBorrowed};
  return &table;
}
}  // namespace convfirst

CONVFIRST_END_TARGET
#else
const convfirst::KernelTable* convfirst::avx2_kernels() { return nullptr; }
#endif
