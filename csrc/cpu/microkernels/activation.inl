// Activations on a Vec. exp(x) = 2^n * 2^r with n whole and |r| <= 1/2, where 2^r is a polynomial fitted for the least
// relative error (2e-7); erf is Abramowitz and Stegun 7.1.26 (1.5e-7 absolute). All within 5e-7 of the true value,
// relative above one and absolute below.

// exp(-x); x below -87 is held there, so that the result stays finite.
CONVFIRST_INLINE Vec exponential_of_minus(Vec x) {
  const Vec power = Vec::at_most(Vec::set1(126.0f), x * Vec::set1(-1.44269504f));
  const Vec n = Vec::round(power);
  const Vec r = power - n;
  Vec p = Vec::set1(0.00132647271f);
  p = Vec::fma(p, r, Vec::set1(0.00967151286f));
  p = Vec::fma(p, r, Vec::set1(0.0555073375f));
  p = Vec::fma(p, r, Vec::set1(0.240222421f));
  p = Vec::fma(p, r, Vec::set1(0.693146978f));
  p = Vec::fma(p, r, Vec::set1(1.0f));
  return Vec::scale_by_power(p, n);
}

CONVFIRST_INLINE Vec sigmoid(Vec x) { return Vec::reciprocal(Vec::set1(1.0f) + exponential_of_minus(x)); }

CONVFIRST_INLINE Vec error_function(Vec x) {
  const Vec magnitude = Vec::at_most(Vec::set1(10.0f), Vec::abs(x));  // erf(10) is 1
  const Vec one = Vec::set1(1.0f);
  const Vec t = Vec::reciprocal(Vec::fma(magnitude, Vec::set1(0.3275911f), one));
  Vec p = Vec::set1(1.061405429f);
  p = Vec::fma(p, t, Vec::set1(-1.453152027f));
  p = Vec::fma(p, t, Vec::set1(1.421413741f));
  p = Vec::fma(p, t, Vec::set1(-0.284496736f));
  p = Vec::fma(p, t, Vec::set1(0.254829592f));
  const Vec tail = p * t * exponential_of_minus(magnitude * magnitude);
  return Vec::copy_sign(one - tail, x);
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
  if constexpr (kActivation == Activation::kGelu) {
    return Vec::set1(0.5f) * x * (Vec::set1(1.0f) + error_function(x * Vec::set1(0.70710678f)));
  }
  if constexpr (kActivation == Activation::kGeluTanh) {
    // x / 2 (1 + tanh u) = x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3)
    const Vec cubic = Vec::fma(x * x * x, Vec::set1(0.044715f), x);
    return x * sigmoid(cubic * Vec::set1(1.59576912f));
  }
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
