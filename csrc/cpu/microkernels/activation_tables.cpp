// Fills the tables by interpolation at Chebyshev nodes, in double. With pieces of width 5.5 / 31 the cubics of GELU's
// remainder are within 4e-7 of it: width^4 max|h''''| / (4! 2^7).
#include "activation_tables.h"

#include <cmath>
#include <cstring>

namespace convfirst {
namespace {

using Function = double (*)(double);

double gelu_remainder(double a) { return 0.5 * a * std::erfc(a * std::sqrt(0.5)); }

double gelu_tanh_remainder(double a) {
  const double u = std::sqrt(2.0 / 3.14159265358979323846) * (a + 0.044715 * a * a * a);
  return a / (1.0 + std::exp(2.0 * u));
}

// The cubic through four points, by Newton's divided differences.
void interpolate(const double (&f)[4], const double (&y)[4], double (&coefficients)[4]) {
  double d[4];
  std::memcpy(d, y, sizeof d);
  for (int order = 1; order < 4; ++order) {
    for (int i = 3; i >= order; --i) d[i] = (d[i] - d[i - 1]) / (f[i] - f[i - order]);
  }
  double c[4] = {d[3], 0.0, 0.0, 0.0};
  for (int i = 2; i >= 0; --i) {  // c = c (x - f[i]) + d[i]
    for (int power = 3; power > 0; --power) c[power] = c[power - 1] - f[i] * c[power];
    c[0] = d[i] - f[i] * c[0];
  }
  std::memcpy(coefficients, c, sizeof c);
}

CubicTable fit(Function function, double limit) {
  CubicTable table{};
  const double scale = (kCubicPieces - 1) / limit;
  table.scale = static_cast<float>(scale), table.limit = static_cast<float>(limit);
  for (int piece = 0; piece < kCubicPieces; ++piece) {
    double f[4], y[4], c[4];
    for (int j = 0; j < 4; ++j) {
      const double node = 0.5 * std::cos((2 * j + 1) * 3.14159265358979323846 / 8);
      f[j] = piece == 0 ? 0.25 + 0.5 * node : node;  // the first piece is used from 0 on
    }
    if (piece == 0) f[3] = 0.0;  // so that the activation of 0 is 0
    for (int j = 0; j < 4; ++j) y[j] = function((piece + f[j]) / scale);
    interpolate(f, y, c);
    for (int power = 0; power < 4; ++power) table.coefficients[power][piece] = static_cast<float>(c[power]);
  }
  return table;
}

ActivationTables make_tables() {
  ActivationTables tables{};
  for (int i = 0; i < 16; ++i) {
    const float power = static_cast<float>(std::exp2(i / 16.0));
    int32_t bits;
    std::memcpy(&bits, &power, sizeof bits);
    tables.sixteenth_powers[i] = bits - (i << 19);
  }
  tables.gelu = fit(gelu_remainder, 5.5);
  tables.gelu_tanh = fit(gelu_tanh_remainder, 5.5);
  return tables;
}

}  // namespace

const ActivationTables kActivationTables = make_tables();

}  // namespace convfirst
