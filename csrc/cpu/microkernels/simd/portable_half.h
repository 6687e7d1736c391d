// HalfVec and NarrowHalfVec in plain C++: floats that hold fp16 values, rounded after every operation.

template <int kLaneCount>
struct RoundedFloats {
  float x[kLaneCount];

  static constexpr int kWidth = kLaneCount;
  static constexpr int kMaxRows[kMaxGemmBlocks] = {2, 0, 0, 0};
  static constexpr int kMaxNarrowRows = 4;
  static constexpr int kMaxTile = 2;

  CONVFIRST_INLINE static RoundedFloats zero() { return set1(0.0f); }
  CONVFIRST_INLINE static RoundedFloats set1(float value) {
    return map([&](int) { return value; });
  }
  CONVFIRST_INLINE static RoundedFloats broadcast(const Half* p) { return set1(to_float(*p)); }
  CONVFIRST_INLINE static RoundedFloats load(const Half* p) { return load_partial(p, kWidth); }
  CONVFIRST_INLINE static RoundedFloats load_partial(const Half* p, int64_t lanes) {
    return map([&](int i) { return i < lanes ? to_float(p[i]) : 0.0f; });
  }
  CONVFIRST_INLINE void store(Half* p) const { store_partial(p, kWidth); }
  CONVFIRST_INLINE void stream(Half* p) const { store(p); }
  CONVFIRST_INLINE void store_partial(Half* p, int64_t lanes) const {
    for (int64_t i = 0; i < lanes; ++i) from_float(x[i], p + i);
  }
  CONVFIRST_INLINE static RoundedFloats fma(const RoundedFloats& a, const RoundedFloats& b, const RoundedFloats& c) {
    return map([&](int i) { return a.x[i] * b.x[i] + c.x[i]; });
  }
  CONVFIRST_INLINE friend RoundedFloats operator+(const RoundedFloats& a, const RoundedFloats& b) {
    return map([&](int i) { return a.x[i] + b.x[i]; });
  }
  CONVFIRST_INLINE static RoundedFloats at_least(const RoundedFloats& bound, const RoundedFloats& a) {
    return map([&](int i) { return a.x[i] < bound.x[i] ? bound.x[i] : a.x[i]; });
  }
  CONVFIRST_INLINE static RoundedFloats at_most(const RoundedFloats& bound, const RoundedFloats& a) {
    return map([&](int i) { return a.x[i] > bound.x[i] ? bound.x[i] : a.x[i]; });
  }
  CONVFIRST_INLINE void add_to(float* sums) const {
    for (int i = 0; i < kWidth; ++i) sums[i] += x[i];
  }
  template <int k>
  CONVFIRST_INLINE static RoundedFloats spread_in_groups(const RoundedFloats& a) {
    return map([&](int i) { return a.x[i / 8 * 8 + k]; });
  }

 private:
  template <class F>
  CONVFIRST_INLINE static RoundedFloats map(F f) {
    RoundedFloats result;
    for (int i = 0; i < kWidth; ++i) {
      Half rounded;
      from_float(f(i), &rounded);
      result.x[i] = to_float(rounded);
    }
    return result;
  }
};

using HalfVec = RoundedFloats<kLanesOf<Half>>;
using NarrowHalfVec = RoundedFloats<kNarrowLanesOf<Half>>;
