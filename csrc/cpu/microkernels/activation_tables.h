// Tables that activations look up in registers; filled when the library is loaded.
#pragma once

#include <cstdint>

namespace convfirst {

constexpr int kCubicPieces = 32;

// Cubics in f on pieces centred at whole multiples of 1 / scale: a = (piece + f) / scale, |f| <= 1/2, 0 <= a <= limit.
struct CubicTable {
  alignas(64) float coefficients[4][kCubicPieces];  // of f^0 .. f^3
  float scale, limit;
};

struct ActivationTables {
  // 2^(i/16) as bits, less i << 19: adding n << 19 then gives 2^(n/16) for any whole n with n % 16 = i.
  alignas(64) int32_t sixteenth_powers[16];
  // max(x, 0) - gelu(x) and max(x, 0) - gelu_tanh(x), which depend on |x| only.
  CubicTable gelu, gelu_tanh;
};

extern const ActivationTables kActivationTables;

}  // namespace convfirst
