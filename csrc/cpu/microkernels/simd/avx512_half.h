// HalfVec: 32 fp16 lanes in one 512-bit register; NarrowHalfVec: 16 in 256 bits. What multiplies and adds them is in
// half_native.h or half_emulated.h; everything else is here, for both.

struct NarrowHalfVec {
  __m256i v;

  static constexpr int kWidth = kNarrowLanesOf<Half>;
  static constexpr int kMaxNarrowRows = 28;

  CONVFIRST_INLINE static NarrowHalfVec zero() { return {_mm256_setzero_si256()}; }
  CONVFIRST_INLINE static NarrowHalfVec set1(float x) {
    return {_mm512_cvtps_ph(_mm512_set1_ps(x), _MM_FROUND_TO_NEAREST_INT)};
  }
  CONVFIRST_INLINE static NarrowHalfVec broadcast(const Half* p) { return {half_broadcast_256(p)}; }
  CONVFIRST_INLINE static __mmask16 mask(int64_t lanes) { return static_cast<__mmask16>((1u << lanes) - 1u); }
  CONVFIRST_INLINE static NarrowHalfVec load(const Half* p) {
    return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))};
  }
  CONVFIRST_INLINE static NarrowHalfVec load_partial(const Half* p, int64_t lanes) {
    return {_mm256_maskz_loadu_epi16(mask(lanes), p)};
  }
  CONVFIRST_INLINE void store(Half* p) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
  CONVFIRST_INLINE void stream(Half* p) const { store(p); }
  CONVFIRST_INLINE void store_partial(Half* p, int64_t lanes) const { _mm256_mask_storeu_epi16(p, mask(lanes), v); }
  CONVFIRST_INLINE static NarrowHalfVec fma(NarrowHalfVec a, NarrowHalfVec b, NarrowHalfVec c) {
    return {half_fma(a.v, b.v, c.v)};
  }
  CONVFIRST_INLINE friend NarrowHalfVec operator+(NarrowHalfVec a, NarrowHalfVec b) { return {half_add(a.v, b.v)}; }
  CONVFIRST_INLINE static NarrowHalfVec at_least(NarrowHalfVec bound, NarrowHalfVec x) {
    return {half_max(bound.v, x.v)};
  }
  CONVFIRST_INLINE static NarrowHalfVec at_most(NarrowHalfVec bound, NarrowHalfVec x) {
    return {half_min(bound.v, x.v)};
  }
  // sums[lane] += lane, in fp32.
  CONVFIRST_INLINE void add_to(float* sums) const {
    _mm512_storeu_ps(sums, _mm512_add_ps(_mm512_loadu_ps(sums), _mm512_cvtph_ps(v)));
  }
};

struct HalfVec {
  __m512i v;

  static constexpr int kWidth = kLanesOf<Half>;
  // The broadcast is folded into the FMA: 32 registers hold rows and weights.
  static constexpr int kMaxRows[kMaxGemmBlocks] = {28, 0, 0, 0};
  static constexpr int kMaxTile = 14;

  CONVFIRST_INLINE static HalfVec zero() { return {_mm512_setzero_si512()}; }
  CONVFIRST_INLINE static HalfVec set1(float x) { return {_mm512_broadcast_i64x4(NarrowHalfVec::set1(x).v)}; }
  CONVFIRST_INLINE static HalfVec broadcast(const Half* p) { return {half_broadcast_512(p)}; }
  CONVFIRST_INLINE static __mmask32 mask(int64_t lanes) { return static_cast<__mmask32>((uint64_t{1} << lanes) - 1u); }
  CONVFIRST_INLINE static HalfVec load(const Half* p) { return {_mm512_loadu_si512(p)}; }
  CONVFIRST_INLINE static HalfVec load_partial(const Half* p, int64_t lanes) {
    return {_mm512_maskz_loadu_epi16(mask(lanes), p)};
  }
  CONVFIRST_INLINE void store(Half* p) const { _mm512_storeu_si512(p, v); }
  CONVFIRST_INLINE void stream(Half* p) const { _mm512_stream_si512(reinterpret_cast<__m512i*>(p), v); }
  CONVFIRST_INLINE void store_partial(Half* p, int64_t lanes) const { _mm512_mask_storeu_epi16(p, mask(lanes), v); }
  CONVFIRST_INLINE static HalfVec fma(HalfVec a, HalfVec b, HalfVec c) { return {half_fma(a.v, b.v, c.v)}; }
  CONVFIRST_INLINE friend HalfVec operator+(HalfVec a, HalfVec b) { return {half_add(a.v, b.v)}; }
  CONVFIRST_INLINE static HalfVec at_least(HalfVec bound, HalfVec x) { return {half_max(bound.v, x.v)}; }
  CONVFIRST_INLINE static HalfVec at_most(HalfVec bound, HalfVec x) { return {half_min(bound.v, x.v)}; }
  CONVFIRST_INLINE void add_to(float* sums) const {
    NarrowHalfVec{_mm512_castsi512_si256(v)}.add_to(sums);
    NarrowHalfVec{_mm512_extracti64x4_epi64(v, 1)}.add_to(sums + 16);
  }
  // Every group of eight lanes becomes its lane k: a group is a 128-bit lane, within which bytes are shuffled.
  template <int k>
  CONVFIRST_INLINE static HalfVec spread_in_groups(HalfVec x) {
    return {_mm512_shuffle_epi8(x.v, _mm512_set1_epi16(((2 * k + 1) << 8) | (2 * k)))};
  }
};
