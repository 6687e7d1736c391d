// Batch norm in training, and the activation behind it, over pixels that pass through the cache anyway (fp32 only): the
// value, its gradient, and sums over pixels that the statistics and their gradients are made of. x is what a
// convolution gave, z = scale x + shift its norm. A group of pixels shares the loads of what belongs to channels.

constexpr int64_t kPixelsOfGroup = 4;

CONVFIRST_INLINE Vec choose_positive(Vec x, Vec positive, Vec other) {
  return Vec::where_positive(x, positive) + (other - Vec::where_positive(x, other));
}

// c0 + c1 x + c2 x^2 + c3 x^3
CONVFIRST_INLINE Vec cubic(Vec x, float c0, float c1, float c2, float c3) {
  const Vec low = Vec::fma(Vec::set1(c1), x, Vec::set1(c0)), high = Vec::fma(Vec::set1(c3), x, Vec::set1(c2));
  return Vec::fma(high, x * x, low);
}

// GELU is x (1 - q(x)) for positive x and x q(-x) for others, q(m) being the remainder over m or, near zero where that
// loses its digits, a series. Its slope is 1 - q + e or q - e, where e(m) = -m q'(m).
template <bool kTanh>
CONVFIRST_INLINE Vec slope_of_gelu(Vec x) {
  constexpr float kNear = 0.25f, kDensity = 0.398942280f;  // 1 / sqrt(2 pi)
  const Vec one = Vec::set1(1.0f), half = Vec::set1(0.5f), m = Vec::abs(x), square = m * m;
  const Vec bend = Vec::fma(square, Vec::set1(0.044715f), one) * m * Vec::set1(2.0f * kDensity);
  const Vec series = kTanh ? half * bend * cubic(bend * bend, 1.0f, -1.0f / 3.0f, 2.0f / 15.0f, -17.0f / 315.0f)
                           : Vec::set1(kDensity) * m * cubic(square, 1.0f, -1.0f / 6.0f, 1.0f / 40.0f, -1.0f / 336.0f);
  const Vec remainder = remainder_of(x, kTanh ? kActivationTables.gelu_tanh : kActivationTables.gelu);
  const Vec far = remainder * Vec::reciprocal(Vec::at_least(Vec::set1(kNear), m));
  const Vec q = choose_positive(m - Vec::set1(kNear), far, half - series);
  const Vec bent = Vec::fma(square, Vec::set1(3.0f * 0.044715f), one) * m * Vec::set1(4.0f * kDensity);
  const Vec e = kTanh ? bent * q * (one - q) : Vec::set1(kDensity) * m * exponential_of_minus(half * square);
  return choose_positive(x, one - q + e, q - e);
}

// The derivative at z of an activation, times d.
template <Activation kActivation>
CONVFIRST_INLINE Vec times_slope(Vec z, Vec d) {
  const Vec one = Vec::set1(1.0f);
  if constexpr (kActivation == Activation::kRelu) return Vec::where_positive(z, d);
  if constexpr (kActivation == Activation::kRelu6) {
    return Vec::where_positive(z, Vec::where_positive(Vec::set1(6.0f) - z, d));
  }
  if constexpr (kActivation == Activation::kSilu) {
    const Vec s = sigmoid(z);
    return d * s * Vec::fma(z, one - s, one);
  }
  if constexpr (kActivation == Activation::kHardswish) {
    const Vec below = Vec::set1(3.0f) - z, ramp = Vec::fma(z, Vec::set1(1.0f / 3.0f), Vec::set1(0.5f));
    const Vec slope = Vec::where_positive(below, ramp) + (one - Vec::where_positive(below, one));
    return d * Vec::where_positive(z + Vec::set1(3.0f), slope);
  }
  if constexpr (kActivation == Activation::kGelu) return d * slope_of_gelu<false>(z);
  if constexpr (kActivation == Activation::kGeluTanh) return d * slope_of_gelu<true>(z);
  return d;
}

// Calls body(first pixel, pixels, first channel, lanes) on groups of pixels by blocks of channels.
template <class E, class Body>
CONVFIRST_INLINE void for_groups(const NormArgs<E>& n, Body body) {
  for (int64_t p = 0; p < n.pixels; p += kPixelsOfGroup) {
    const int64_t pixels = n.pixels - p < kPixelsOfGroup ? n.pixels - p : kPixelsOfGroup;
    for (int64_t c = 0; c < n.channels; c += kLanes) {
      body(p, pixels, c, n.channels - c < kLanes ? n.channels - c : kLanes);
    }
  }
}

// Pixels of one block of channels lie a whole pixel apart, too far for the hardware to see where a walk over them
// leads.
constexpr int64_t kAhead = 16;

template <class E>
CONVFIRST_INLINE void fetch_ahead(const E* values, int64_t stride, int64_t i) {
  __builtin_prefetch(values + (i + kAhead) * stride);
}

// Where a block of channels of the output begins.
template <class E>
CONVFIRST_INLINE E* block_of(const NormArgs<E>& n, int64_t c) {
  return n.out + (n.out_panel ? c / kPanel * n.out_panel + c % kPanel : c);
}

template <class E>
CONVFIRST_INLINE void add_to(float* sums, Vec v, int64_t lanes) {
  store_lanes(load_lanes(sums, lanes) + v, sums, lanes);
}

// out = activation(z) [* gate] [+ other]
template <class E>
void apply_norm(const NormArgs<E>& n) {
  with_activation(n.activation, [&](auto tag) CONVFIRST_ALWAYS_INLINE {
    for_groups(n, [&](int64_t p, int64_t pixels, int64_t c, int64_t lanes) CONVFIRST_ALWAYS_INLINE {
      const Vec scale = load_lanes(n.scale + c, lanes), shift = load_lanes(n.shift + c, lanes);
      const Vec gate = n.gate ? load_lanes(n.gate + c, lanes) : Vec::set1(1.0f);
      E* out = block_of(n, c);
      const int64_t stored = n.out_panel ? kLanes : lanes;
      for (int64_t i = p; i < p + pixels; ++i) {
        fetch_ahead(n.x + c, n.x_stride, i);
        const Vec z = Vec::fma(load_lanes(n.x + i * n.x_stride + c, lanes), scale, shift);
        Vec v = activated<decltype(tag)::value>(z) * gate;
        if (n.other) v = v + load_lanes(n.other + i * n.other_stride + c, lanes);
        store_lanes(v, out + i * n.out_stride, stored);
      }
    });
  });
}

// out = scale * other + gate * x + shift: the gradient of x, of that of z and of its statistics.
template <class E>
void combine(const NormArgs<E>& n) {
  for_groups(n, [&](int64_t p, int64_t pixels, int64_t c, int64_t lanes) CONVFIRST_ALWAYS_INLINE {
    const Vec scale = load_lanes(n.scale + c, lanes), shift = load_lanes(n.shift + c, lanes);
    const Vec gate = load_lanes(n.gate + c, lanes);
    E* out = block_of(n, c);
    const int64_t stored = n.out_panel ? kLanes : lanes;
    for (int64_t i = p; i < p + pixels; ++i) {
      fetch_ahead(n.x + c, n.x_stride, i), fetch_ahead(n.other + c, n.other_stride, i);
      const Vec rest = Vec::fma(gate, load_lanes(n.x + i * n.x_stride + c, lanes), shift);
      const Vec v = Vec::fma(scale, load_lanes(n.other + i * n.other_stride + c, lanes), rest);
      store_lanes(v, out + i * n.out_stride, stored);
    }
  });
}

// out = (other [* gate + offset]) * activation'(z), the gradient of z from that of the activation (`out` may be
// nullptr); sums of it and of its products with x - mean.
template <class E>
void activation_grad(const NormArgs<E>& n) {
  with_activation(n.activation, [&](auto tag) CONVFIRST_ALWAYS_INLINE {
    for_groups(n, [&](int64_t p, int64_t pixels, int64_t c, int64_t lanes) CONVFIRST_ALWAYS_INLINE {
      const Vec scale = load_lanes(n.scale + c, lanes), shift = load_lanes(n.shift + c, lanes);
      const Vec gate = n.gate ? load_lanes(n.gate + c, lanes) : Vec::set1(1.0f);
      const Vec offset = n.offset ? load_lanes(n.offset + c, lanes) : Vec::zero();
      const Vec mean = load_lanes(n.mean + c, lanes);
      Vec sum = Vec::zero(), products = Vec::zero();
      for (int64_t i = p; i < p + pixels; ++i) {
        fetch_ahead(n.x + c, n.x_stride, i);
        if (n.out) __builtin_prefetch(n.out + c + (i + kAhead) * n.out_stride, 1);
        const Vec x = load_lanes(n.x + i * n.x_stride + c, lanes);
        const Vec d = Vec::fma(load_lanes(n.other + i * n.other_stride + c, lanes), gate, offset);
        const Vec v = times_slope<decltype(tag)::value>(Vec::fma(x, scale, shift), d);
        if (n.out) store_lanes(v, n.out + i * n.out_stride + c, lanes);
        sum = sum + v;
        products = Vec::fma(v, x - mean, products);
      }
      add_to<E>(n.sums + c, sum, lanes);
      add_to<E>(n.sums + n.sums_stride + c, products, lanes);
    });
  });
}

// Sums of other * activation(z): the gradient of a gate. Without `other`, of activation(z).
template <class E>
void gate_grad(const NormArgs<E>& n) {
  with_activation(n.activation, [&](auto tag) CONVFIRST_ALWAYS_INLINE {
    for_groups(n, [&](int64_t p, int64_t pixels, int64_t c, int64_t lanes) CONVFIRST_ALWAYS_INLINE {
      const Vec scale = load_lanes(n.scale + c, lanes), shift = load_lanes(n.shift + c, lanes);
      Vec sum = Vec::zero();
      for (int64_t i = p; i < p + pixels; ++i) {
        const Vec z = Vec::fma(load_lanes(n.x + i * n.x_stride + c, lanes), scale, shift);
        const Vec value = activated<decltype(tag)::value>(z);
        const Vec d = n.other ? load_lanes(n.other + i * n.other_stride + c, lanes) : Vec::set1(1.0f);
        sum = Vec::fma(value, d, sum);
      }
      add_to<E>(n.sums + c, sum, lanes);
    });
  });
}

// Sums of x - mean and of its squares; any mean near the true one keeps the squares exact.
template <class E>
void moments(const NormArgs<E>& n) {
  for_groups(n, [&](int64_t p, int64_t pixels, int64_t c, int64_t lanes) CONVFIRST_ALWAYS_INLINE {
    const Vec mean = load_lanes(n.mean + c, lanes);
    Vec sum = Vec::zero(), squares = Vec::zero();
    for (int64_t i = p; i < p + pixels; ++i) {
      const Vec d = load_lanes(n.x + i * n.x_stride + c, lanes) - mean;
      sum = sum + d;
      squares = Vec::fma(d, d, squares);
    }
    add_to<E>(n.sums + c, sum, lanes);
    add_to<E>(n.sums + n.sums_stride + c, squares, lanes);
  });
}
