// Microkernels in plain C++, for every machine.
#include "isa.h"
#include "target_region.h"

namespace convfirst {
namespace portable {
#include "simd/portable.h"
// clang-format off: the parts build on each other in this order
#include "gemm.inl"
#include "spatial.inl"
#include "activation.inl"
#include "passes.inl"
#include "table.inl"
// clang-format on
}  // namespace portable

const KernelTable* portable_kernels() {
  static const KernelTable table = portable::make_table("portable");
  return &table;
}
}  // namespace convfirst
