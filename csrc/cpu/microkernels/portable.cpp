// Microkernels in plain C++, for every machine.
#include "isa.h"
#include "target_region.h"

namespace convfirst {
namespace portable {
// clang-format off: the parts build on each other in this order
#include "simd/portable.h"
#include "simd/portable_half.h"
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
}  // namespace portable

const KernelTable* portable_kernels() {
  static const Kernels<Half> half = portable::make_kernels<Half>();
  static const KernelTable table = {"portable", portable::make_kernels<float>(), &half, HalfArithmetic::kEmulated};
  return &table;
}
}  // namespace convfirst
