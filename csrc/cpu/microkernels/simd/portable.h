// Vec in plain C++: four vectors of four floats, which GCC and Clang map to any machine's own registers.

CONVFIRST_INLINE float bits_to_float(uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}
CONVFIRST_INLINE uint32_t float_to_bits(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits;
}

CONVFIRST_INLINE float to_float(float x) { return x; }
CONVFIRST_INLINE float to_float(BFloat16 x) { return bits_to_float(static_cast<uint32_t>(x.bits) << 16); }
// Exponents 1..30 are shifted into place and rescaled by 2^112, which makes subnormals exact too.
CONVFIRST_INLINE float to_float(Half x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  const uint32_t rest = static_cast<uint32_t>(x.bits & 0x7fffu) << 13;
  if (rest >= 0x0f800000u) return bits_to_float(sign | 0x70000000u | rest);  // infinity and NaN
  return bits_to_float(sign | float_to_bits(bits_to_float(rest) * 0x1p112f));
}
CONVFIRST_INLINE void from_float(float x, float* p) { *p = x; }
CONVFIRST_INLINE void from_float(float x, BFloat16* p) {
  const uint32_t bits = float_to_bits(x);
  const uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  p->bits = static_cast<uint16_t>((x != x ? bits | 0x00400000u : rounded) >> 16);
}
CONVFIRST_INLINE void from_float(float x, Half* p) {
  const uint32_t bits = float_to_bits(x);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u | ((magnitude >> 13) & 0x1ffu);
  } else if (magnitude >= 0x477ff000u) {  // rounds to 65536 or more
    half = 0x7c00u;
  } else if (magnitude < 0x38800000u) {  // subnormal: adding 0.5 aligns the last bit, the adder rounds
    half = float_to_bits(bits_to_float(magnitude) + 0.5f) - 0x3f000000u;
  } else {
    half = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  }
  p->bits = static_cast<uint16_t>(sign | half);
}

struct NarrowVec {
  typedef float Quad __attribute__((vector_size(16)));
  typedef int32_t QuadBits __attribute__((vector_size(16)));
  typedef float UnalignedQuad __attribute__((vector_size(16), aligned(4)));

  Quad q[2];

  static constexpr int kWidth = kNarrowLanes;
  static constexpr int kMaxNarrowRows = 4;

  CONVFIRST_INLINE static NarrowVec broadcast(const float* p) { return set1(*p); }
  CONVFIRST_INLINE static NarrowVec set1(float x) {
    const Quad all = {x, x, x, x};
    return {{all, all}};
  }
  CONVFIRST_INLINE static NarrowVec load(const float* p) {
    return {{*reinterpret_cast<const UnalignedQuad*>(p), *reinterpret_cast<const UnalignedQuad*>(p + 4)}};
  }
  CONVFIRST_INLINE static NarrowVec load_partial(const float* p, int64_t lanes) {
    float buffer[kWidth] = {};
    for (int64_t i = 0; i < lanes; ++i) buffer[i] = p[i];
    return load(buffer);
  }
  CONVFIRST_INLINE void store(float* p) const {
    *reinterpret_cast<UnalignedQuad*>(p) = q[0];
    *reinterpret_cast<UnalignedQuad*>(p + 4) = q[1];
  }
  CONVFIRST_INLINE void stream(float* p) const { store(p); }
  CONVFIRST_INLINE void store_partial(float* p, int64_t lanes) const {
    float buffer[kWidth];
    store(buffer);
    for (int64_t i = 0; i < lanes; ++i) p[i] = buffer[i];
  }
  CONVFIRST_INLINE static NarrowVec fma(NarrowVec a, NarrowVec b, NarrowVec c) {
    return {{a.q[0] * b.q[0] + c.q[0], a.q[1] * b.q[1] + c.q[1]}};
  }
  CONVFIRST_INLINE friend NarrowVec operator+(NarrowVec a, NarrowVec b) { return {{a.q[0] + b.q[0], a.q[1] + b.q[1]}}; }
  // Comparisons are false for NaN, so the value itself comes through.
  CONVFIRST_INLINE static NarrowVec at_least(NarrowVec bound, NarrowVec x) {
    return {{select(x.q[0] < bound.q[0], bound.q[0], x.q[0]), select(x.q[1] < bound.q[1], bound.q[1], x.q[1])}};
  }
  CONVFIRST_INLINE static NarrowVec at_most(NarrowVec bound, NarrowVec x) {
    return {{select(x.q[0] > bound.q[0], bound.q[0], x.q[0]), select(x.q[1] > bound.q[1], bound.q[1], x.q[1])}};
  }

 private:
  CONVFIRST_INLINE static Quad select(QuadBits choose, Quad yes, Quad no) {
    return (Quad)((choose & (QuadBits)yes) | (~choose & (QuadBits)no));
  }
};

struct Vec {
  typedef float Quad __attribute__((vector_size(16)));
  typedef int32_t QuadBits __attribute__((vector_size(16)));
  typedef float UnalignedQuad __attribute__((vector_size(16), aligned(4)));

  Quad q[4];

  static constexpr int kWidth = kLanes;
  static constexpr int kMaxRows[kMaxGemmBlocks] = {2, 1, 1, 1};
  static constexpr int kMaxTile = 2;

  CONVFIRST_INLINE static Vec zero() { return set1(0.0f); }
  CONVFIRST_INLINE static Vec broadcast(const float* p) { return set1(*p); }
  CONVFIRST_INLINE static Vec set1(float x) {
    const Quad all = {x, x, x, x};
    return {{all, all, all, all}};
  }

  CONVFIRST_INLINE static Vec load(const float* p) { return {{quad(p), quad(p + 4), quad(p + 8), quad(p + 12)}}; }
  template <class T>
  CONVFIRST_INLINE static Vec load(const T* p) {
    return load_partial(p, kLanes);
  }
  template <class T>
  CONVFIRST_INLINE static Vec load_partial(const T* p, int64_t lanes) {
    float buffer[kLanes] = {};
    for (int64_t i = 0; i < lanes; ++i) buffer[i] = to_float(p[i]);
    return load(buffer);
  }
  CONVFIRST_INLINE void store(float* p) const {
    CONVFIRST_UNROLL
    for (int i = 0; i < 4; ++i) *reinterpret_cast<UnalignedQuad*>(p + 4 * i) = q[i];
  }
  CONVFIRST_INLINE void stream(float* p) const { store(p); }
  template <class T>
  CONVFIRST_INLINE void store(T* p) const {
    store_partial(p, kLanes);
  }
  template <class T>
  CONVFIRST_INLINE void store_partial(T* p, int64_t lanes) const {
    float buffer[kLanes];
    store(buffer);
    for (int64_t i = 0; i < lanes; ++i) from_float(buffer[i], p + i);
  }

  CONVFIRST_INLINE static Vec fma(Vec a, Vec b, Vec c) {
    return map([&](int i) { return a.q[i] * b.q[i] + c.q[i]; });
  }
  CONVFIRST_INLINE friend Vec operator+(Vec a, Vec b) {
    return map([&](int i) { return a.q[i] + b.q[i]; });
  }
  CONVFIRST_INLINE friend Vec operator-(Vec a, Vec b) {
    return map([&](int i) { return a.q[i] - b.q[i]; });
  }
  CONVFIRST_INLINE friend Vec operator*(Vec a, Vec b) {
    return map([&](int i) { return a.q[i] * b.q[i]; });
  }
  CONVFIRST_INLINE static Vec reciprocal(Vec x) {
    return map([&](int i) { return 1.0f / x.q[i]; });
  }
  // Comparisons are false for NaN, so the value itself comes through.
  CONVFIRST_INLINE static Vec at_least(Vec bound, Vec x) {
    return map([&](int i) { return select(x.q[i] < bound.q[i], bound.q[i], x.q[i]); });
  }
  CONVFIRST_INLINE static Vec at_most(Vec bound, Vec x) {
    return map([&](int i) { return select(x.q[i] > bound.q[i], bound.q[i], x.q[i]); });
  }
  CONVFIRST_INLINE static Vec abs(Vec x) {
    return map([&](int i) { return (Quad)((QuadBits)x.q[i] & INT32_MAX); });
  }
  // Lanes of y where x is positive, zero elsewhere.
  CONVFIRST_INLINE static Vec where_positive(Vec x, Vec y) {
    return map([&](int i) { return (Quad)((x.q[i] > 0.0f) & (QuadBits)y.q[i]); });
  }
  // 2^(n/16), n being the whole number in the low bits of a sum with kRounder.
  CONVFIRST_INLINE static Vec sixteenth_power(Vec sum, const int32_t* table) {
    return map([&](int i) {
      const QuadBits bits = (QuadBits)sum.q[i], low = bits & 15;
      const QuadBits part = {table[low[0]], table[low[1]], table[low[2]], table[low[3]]};
      return (Quad)(part + (bits << 19));
    });
  }
  // table[n] of 32 entries, n as above.
  CONVFIRST_INLINE static Vec look_up(const float* table, Vec sum) {
    return map([&](int i) {
      const QuadBits low = (QuadBits)sum.q[i] & 31;
      return Quad{table[low[0]], table[low[1]], table[low[2]], table[low[3]]};
    });
  }
  // Lanes 0..7 become lane k, lanes 8..15 lane 8 + k.
  template <int k>
  CONVFIRST_INLINE static Vec spread_in_groups(Vec x) {
    const float low = x.q[k / 4][k % 4], high = x.q[2 + k / 4][k % 4];
    const Quad lows = {low, low, low, low}, highs = {high, high, high, high};
    return {{lows, lows, highs, highs}};
  }

 private:
  template <class F>
  CONVFIRST_INLINE static Vec map(F f) {
    return {{f(0), f(1), f(2), f(3)}};
  }
  CONVFIRST_INLINE static Quad quad(const float* p) { return *reinterpret_cast<const UnalignedQuad*>(p); }
  CONVFIRST_INLINE static Quad select(QuadBits choose, Quad yes, Quad no) {
    return (Quad)((choose & (QuadBits)yes) | (~choose & (QuadBits)no));
  }
};
