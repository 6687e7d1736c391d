// Which vectors compute in E, and loads and stores of fewer than sixteen lanes. E is float or Half; the fp16 vectors
// are left out where an instruction set borrows them (CONVFIRST_BORROWS_HALF).

template <class E>
constexpr bool kComputesInHalf = false;
template <>
constexpr bool kComputesInHalf<Half> = true;

template <class E>
struct Simd;
template <>
struct Simd<float> {
  using Wide = Vec;
  using Narrow = NarrowVec;
};
#if !defined(CONVFIRST_BORROWS_HALF)
template <>
struct Simd<Half> {
  using Wide = HalfVec;
  using Narrow = NarrowHalfVec;
};
#endif

template <class V>
struct ElementOf {
  using Type = float;
};
#if !defined(CONVFIRST_BORROWS_HALF)
template <>
struct ElementOf<HalfVec> {
  using Type = Half;
};
template <>
struct ElementOf<NarrowHalfVec> {
  using Type = Half;
};
#endif
template <class V>
using Element = typename ElementOf<V>::Type;

template <class T>
CONVFIRST_INLINE Vec load_lanes(const T* p, int64_t lanes) {
  return lanes < kLanes ? Vec::load_partial(p, lanes) : Vec::load(p);
}

template <class T>
CONVFIRST_INLINE void store_lanes(Vec v, T* p, int64_t lanes) {
  if (lanes < kLanes) {
    v.store_partial(p, lanes);
  } else {
    v.store(p);
  }
}
