// Activations on a Vec. exp(x) = 2^(n/16) 2^(f/16) with n whole and |f| <= 1/2: the first factor comes from a table of
// sixteen, the second is a cubic. GELU is max(x, 0) less a remainder that depends on |x| only, a table of cubics. All
// within 5e-7 of the true value, relative above one and absolute below.

// Adding it rounds to a whole number, whose lowest bits are then the sum's.
constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23

// exp(-x); |x| above 87 is held there, so that the result stays finite.
CONVFIRST_INLINE Vec exponential_of_minus(Vec x) {
  const Vec held = Vec::at_most(Vec::set1(87.0f), Vec::at_least(Vec::set1(-87.0f), x));
  const Vec rounder = Vec::set1(kRounder), factor = Vec::set1(-23.0831207f);  // -16 log2(e)
  const Vec sum = Vec::fma(held, factor, rounder);
  const Vec f = Vec::fma(held, factor, rounder - sum);
  Vec p = Vec::set1(1.35508e-5f);  // (ln(2) / 16)^k / k!
  p = Vec::fma(p, f, Vec::set1(9.38384793e-4f));
  p = Vec::fma(p, f, Vec::set1(0.0433216988f));
  p = Vec::fma(p, f, Vec::set1(1.0f));
  return p * Vec::sixteenth_power(sum, kActivationTables.sixteenth_powers);
}

CONVFIRST_INLINE Vec sigmoid(Vec x) { return Vec::reciprocal(Vec::set1(1.0f) + exponential_of_minus(x)); }

// The remainder at |x|.
CONVFIRST_INLINE Vec remainder_of(Vec x, const CubicTable& table) {
  const Vec rounder = Vec::set1(kRounder), scale = Vec::set1(table.scale);
  const Vec magnitude = Vec::at_most(Vec::set1(table.limit), Vec::abs(x));
  const Vec sum = Vec::fma(magnitude, scale, rounder);
  const Vec f = Vec::fma(magnitude, scale, rounder - sum);
  Vec p = Vec::look_up(table.coefficients[3], sum);
  p = Vec::fma(p, f, Vec::look_up(table.coefficients[2], sum));
  p = Vec::fma(p, f, Vec::look_up(table.coefficients[1], sum));
  return Vec::fma(p, f, Vec::look_up(table.coefficients[0], sum));
}

CONVFIRST_INLINE Vec less_remainder(Vec x, const CubicTable& table) {
  return Vec::at_least(Vec::zero(), x) - remainder_of(x, table);
}

CONVFIRST_INLINE Vec bounded_ramp(Vec x) {  // hardsigmoid: clamp(x / 6 + 1 / 2, 0, 1)
  const Vec ramp = Vec::fma(x, Vec::set1(1.0f / 6.0f), Vec::set1(0.5f));
  return Vec::at_most(Vec::set1(1.0f), Vec::at_least(Vec::zero(), ramp));
}

template <Activation kActivation>
CONVFIRST_INLINE Vec activated(Vec x) {
  if constexpr (kActivation == Activation::kRelu) return Vec::at_least(Vec::zero(), x);
  if constexpr (kActivation == Activation::kRelu6) {
    return Vec::at_most(Vec::set1(6.0f), Vec::at_least(Vec::zero(), x));
  }
  if constexpr (kActivation == Activation::kSilu) return x * sigmoid(x);
  if constexpr (kActivation == Activation::kHardswish) return x * bounded_ramp(x);
  if constexpr (kActivation == Activation::kGelu) return less_remainder(x, kActivationTables.gelu);
  if constexpr (kActivation == Activation::kGeluTanh) return less_remainder(x, kActivationTables.gelu_tanh);
  if constexpr (kActivation == Activation::kSigmoid) return sigmoid(x);
  if constexpr (kActivation == Activation::kHardsigmoid) return bounded_ramp(x);
  return x;
}

// Calls body with the activation as a compile-time constant, so that the choice is made once a pass.
template <class Body>
CONVFIRST_INLINE void with_activation(Activation activation, Body body) {
  switch (activation) {
    case Activation::kIdentity: return body(Constant<Activation::kIdentity>());
    case Activation::kRelu: return body(Constant<Activation::kRelu>());
    case Activation::kRelu6: return body(Constant<Activation::kRelu6>());
    case Activation::kSilu: return body(Constant<Activation::kSilu>());
    case Activation::kHardswish: return body(Constant<Activation::kHardswish>());
    case Activation::kGelu: return body(Constant<Activation::kGelu>());
    case Activation::kGeluTanh: return body(Constant<Activation::kGeluTanh>());
    case Activation::kSigmoid: return body(Constant<Activation::kSigmoid>());
    case Activation::kHardsigmoid: return body(Constant<Activation::kHardsigmoid>());
  }
}
