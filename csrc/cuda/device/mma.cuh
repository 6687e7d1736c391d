// Tensor core products and the loads that feed them (PTX ISA, "mma.m16n8k8", "mma.m16n8k16", "ldmatrix"; sm_80).
//
// Lane l has row g = l / 4 and column pair t = 2 (l % 4):
//   A (16 x 8)   a[0]: (g, t..t+1), a[1]: (g + 8, t..t+1);   16 x 16: a[2], a[3] the same with columns + 8
//   B (8 x 8)    b[0]: rows t..t+1 of column g;              16 x 8: b[1] the same with rows + 8
//   D (16 x 8)   d[0..1]: (g, t..t+1), d[2..3]: (g + 8, t..t+1), fp32
#pragma once

#include "numeric.cuh"

namespace convfirst::cuda {

#ifdef CONVFIRST_EMULATE
template <class T>
constexpr emulator::Half kHalfType = std::is_same_v<T, Half> ? emulator::Half::kFloat16 : emulator::Half::kBFloat16;
#endif

// D += A (16 x 8) B (8 x 8).
template <class T>
CONVFIRST_DEVICE void multiply_16x8x8(float (&d)[4], const unsigned (&a)[2], unsigned b CONVFIRST_FROM_LINE) {
#ifdef CONVFIRST_EMULATE
  emulator::Multiply operands = {kHalfType<T>, d, a, &b};
  emulator::together(emulator::Collective::kMultiply8, &operands, line);
#else
  if constexpr (std::is_same_v<T, Half>) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(b));
  } else {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(b));
  }
#endif
}

// D += A (16 x 16) B (16 x 8).
template <class T>
CONVFIRST_DEVICE void multiply_16x8x16(float (&d)[4], const unsigned (&a)[4],
                                       const unsigned (&b)[2] CONVFIRST_FROM_LINE) {
#ifdef CONVFIRST_EMULATE
  emulator::Multiply operands = {kHalfType<T>, d, a, b};
  emulator::together(emulator::Collective::kMultiply16, &operands, line);
#else
  if constexpr (std::is_same_v<T, Half>) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
#endif
}

// kCount matrices of 8 x 8 two-byte elements: lane l points at row l % 8 of matrix l / 8 (16 bytes, aligned); element
// (g, t) and the next of matrix m come into registers[m], of its transpose where kTransposed.
template <bool kTransposed, int kCount, class T>
CONVFIRST_DEVICE void load_matrices(unsigned (&registers)[kCount], Shared<T> row CONVFIRST_FROM_LINE) {
  static_assert(sizeof(T) == 2 && (kCount == 1 || kCount == 2 || kCount == 4));
#ifdef CONVFIRST_EMULATE
  emulator::MatrixLoad operands = {row.extent_, reinterpret_cast<const char*>(row.raw()), kCount, kTransposed,
                                   registers};
  emulator::together(emulator::Collective::kMatrixLoad, &operands, line);
#else
  const unsigned at = static_cast<unsigned>(__cvta_generic_to_shared(row.raw()));
  unsigned* r = registers;
  if constexpr (kCount == 4 && kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
  } else if constexpr (kCount == 4) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
  } else if constexpr (kCount == 2 && kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];\n"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(at)
                 : "memory");
  } else if constexpr (kCount == 2) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];\n"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(at)
                 : "memory");
  } else if constexpr (kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];\n" : "=r"(r[0]) : "r"(at) : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];\n" : "=r"(r[0]) : "r"(at) : "memory");
  }
#endif
}

}  // namespace convfirst::cuda
