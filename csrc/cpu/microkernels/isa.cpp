// Finds the instruction sets of this CPU and picks one.
#include "isa.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

#include "target_region.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace convfirst {
namespace {

struct Isa {
  const char* name;
  const KernelTable* (*table)();
  bool (*supported)();
};

bool always() { return true; }

#if defined(__x86_64__)
// Not every compiler's __builtin_cpu_supports knows it by name.
bool has_f16c() {
  unsigned a, b, c, d;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c(); }
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#else
bool has_avx2() { return false; }
bool has_avx512() { return false; }
#endif
#if defined(CONVFIRST_KNOWS_AVX512FP16)
bool has_avx512fp16() { return has_avx512() && __builtin_cpu_supports("avx512fp16"); }
#else
bool has_avx512fp16() { return false; }
#endif

const Isa kIsas[kIsaCount] = {
    {"portable", portable_kernels, always},
    {"avx2", avx2_kernels, has_avx2},
    {"avx512", avx512_kernels, has_avx512},
    {"avx512fp16", avx512fp16_kernels, has_avx512fp16},
};

std::string available_names() {
  std::string names;
  for (int i = 0; i < kIsaCount; ++i) {
    if (kernels_of(i)) names += (names.empty() ? "" : ", ") + std::string(kIsas[i].name);
  }
  return names;
}

const KernelTable* richest() {
  for (int i = kIsaCount - 1; i > 0; --i) {
    if (const KernelTable* table = kernels_of(i)) return table;
  }
  return kernels_of(0);
}

const KernelTable* choose() {
  const char* wanted = std::getenv("CONVFIRST_CPU_ISA");
  if (!wanted || !*wanted) return richest();
  for (int i = 0; i < kIsaCount; ++i) {
    if (std::string(wanted) == kIsas[i].name && kernels_of(i)) return kernels_of(i);
  }
  throw std::runtime_error("CONVFIRST_CPU_ISA is '" + std::string(wanted) +
                           "', but must be one of those this CPU has: " + available_names() + ".");
}

}  // namespace

const char* isa_name(int index) { return kIsas[index].name; }

const KernelTable* kernels_of(int index) { return kIsas[index].supported() ? kIsas[index].table() : nullptr; }

const KernelTable& kernels() {
  static const KernelTable* const table = choose();
  return *table;
}

}  // namespace convfirst
