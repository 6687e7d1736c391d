// Vec on AVX2, FMA and F16C: two 256-bit registers; NarrowVec: one.

struct NarrowVec {
  __m256 v;

  static constexpr int kWidth = kNarrowLanes;
  static constexpr int kMaxNarrowRows = 13;  // 16 registers: rows + weights + a broadcast

  CONVFIRST_INLINE static NarrowVec broadcast(const float* p) { return set1(*p); }
  CONVFIRST_INLINE static NarrowVec set1(float x) { return {_mm256_set1_ps(x)}; }
  CONVFIRST_INLINE static NarrowVec load(const float* p) { return {_mm256_loadu_ps(p)}; }
  CONVFIRST_INLINE static NarrowVec load_partial(const float* p, int64_t lanes) {
    float buffer[kWidth] = {};
    for (int64_t i = 0; i < lanes; ++i) buffer[i] = p[i];
    return load(buffer);
  }
  CONVFIRST_INLINE void store(float* p) const { _mm256_storeu_ps(p, v); }
  CONVFIRST_INLINE void stream(float* p) const { store(p); }
  CONVFIRST_INLINE void store_partial(float* p, int64_t lanes) const {
    float buffer[kWidth];
    store(buffer);
    for (int64_t i = 0; i < lanes; ++i) p[i] = buffer[i];
  }
  CONVFIRST_INLINE static NarrowVec fma(NarrowVec a, NarrowVec b, NarrowVec c) {
    return {_mm256_fmadd_ps(a.v, b.v, c.v)};
  }
  CONVFIRST_INLINE friend NarrowVec operator+(NarrowVec a, NarrowVec b) { return {_mm256_add_ps(a.v, b.v)}; }
  CONVFIRST_INLINE static NarrowVec at_least(NarrowVec bound, NarrowVec x) { return {_mm256_max_ps(bound.v, x.v)}; }
  CONVFIRST_INLINE static NarrowVec at_most(NarrowVec bound, NarrowVec x) { return {_mm256_min_ps(bound.v, x.v)}; }
};

struct Vec {
  __m256 lo, hi;

  static constexpr int kWidth = kLanes;

  static constexpr int kMaxRows[kMaxGemmBlocks] = {6, 3, 1, 1};  // 16 registers, two a Vec
  static constexpr int kMaxTile = 4;

  CONVFIRST_INLINE static Vec zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  CONVFIRST_INLINE static Vec broadcast(const float* p) { return set1(*p); }
  CONVFIRST_INLINE static Vec set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }

  CONVFIRST_INLINE static Vec load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  CONVFIRST_INLINE static Vec load(const BFloat16* p) { return {widen(p), widen(p + 8)}; }
  CONVFIRST_INLINE static Vec load(const Half* p) { return {widen(p), widen(p + 8)}; }
  template <class T>
  CONVFIRST_INLINE static Vec load_partial(const T* p, int64_t lanes) {
    T buffer[kLanes] = {};
    for (int64_t i = 0; i < lanes; ++i) buffer[i] = p[i];
    return load(buffer);
  }

  CONVFIRST_INLINE void store(float* p) const {
    _mm256_storeu_ps(p, lo);
    _mm256_storeu_ps(p + 8, hi);
  }
  CONVFIRST_INLINE void stream(float* p) const {
    _mm256_stream_ps(p, lo);
    _mm256_stream_ps(p + 8, hi);
  }
  CONVFIRST_INLINE void store(BFloat16* p) const { store_low_halves(p, rounded_bf16(lo), rounded_bf16(hi)); }
  CONVFIRST_INLINE void store(Half* p) const {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(lo, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm256_cvtps_ph(hi, _MM_FROUND_TO_NEAREST_INT));
  }
  template <class T>
  CONVFIRST_INLINE void store_partial(T* p, int64_t lanes) const {
    T buffer[kLanes];
    store(buffer);
    for (int64_t i = 0; i < lanes; ++i) p[i] = buffer[i];
  }

  CONVFIRST_INLINE static Vec fma(Vec a, Vec b, Vec c) {
    return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
  }
  CONVFIRST_INLINE friend Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
  CONVFIRST_INLINE friend Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
  CONVFIRST_INLINE friend Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
  CONVFIRST_INLINE static Vec reciprocal(Vec x) {
    const __m256 one = _mm256_set1_ps(1.0f);
    return {_mm256_div_ps(one, x.lo), _mm256_div_ps(one, x.hi)};
  }
  // x86 max and min give their second operand where either is NaN: the value goes second, so NaN stays NaN.
  CONVFIRST_INLINE static Vec at_least(Vec bound, Vec x) {
    return {_mm256_max_ps(bound.lo, x.lo), _mm256_max_ps(bound.hi, x.hi)};
  }
  CONVFIRST_INLINE static Vec at_most(Vec bound, Vec x) {
    return {_mm256_min_ps(bound.lo, x.lo), _mm256_min_ps(bound.hi, x.hi)};
  }
  CONVFIRST_INLINE static Vec abs(Vec x) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_andnot_ps(sign, x.lo), _mm256_andnot_ps(sign, x.hi)};
  }
  // Lanes of y where x is positive, zero elsewhere.
  CONVFIRST_INLINE static Vec where_positive(Vec x, Vec y) {
    const __m256 zero = _mm256_setzero_ps();
    return {_mm256_and_ps(_mm256_cmp_ps(x.lo, zero, _CMP_GT_OQ), y.lo),
            _mm256_and_ps(_mm256_cmp_ps(x.hi, zero, _CMP_GT_OQ), y.hi)};
  }
  // 2^(n/16), n being the whole number in the low bits of a sum with kRounder.
  CONVFIRST_INLINE static Vec sixteenth_power(Vec sum, const int32_t* table) {
    return {sixteenth_power(_mm256_castps_si256(sum.lo), table), sixteenth_power(_mm256_castps_si256(sum.hi), table)};
  }
  // table[n] of 32 entries, n as above.
  CONVFIRST_INLINE static Vec look_up(const float* table, Vec sum) {
    const __m256i low_bits = _mm256_set1_epi32(31);
    return {_mm256_i32gather_ps(table, _mm256_and_si256(_mm256_castps_si256(sum.lo), low_bits), 4),
            _mm256_i32gather_ps(table, _mm256_and_si256(_mm256_castps_si256(sum.hi), low_bits), 4)};
  }
  // Lanes 0..7 become lane k, lanes 8..15 lane 8 + k.
  template <int k>
  CONVFIRST_INLINE static Vec spread_in_groups(Vec x) {
    const __m256i index = _mm256_set1_epi32(k);
    return {_mm256_permutevar8x32_ps(x.lo, index), _mm256_permutevar8x32_ps(x.hi, index)};
  }

 private:
  CONVFIRST_INLINE static __m256 widen(const BFloat16* p) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
  CONVFIRST_INLINE static __m256 widen(const Half* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  // The bfloat16 bits in the low half of each lane; NaN keeps its sign and becomes quiet.
  CONVFIRST_INLINE static __m256i rounded_bf16(__m256 x) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x00400000));
    const __m256 nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
    const __m256 kept = _mm256_blendv_ps(_mm256_castsi256_ps(rounded), _mm256_castsi256_ps(quiet), nan);
    return _mm256_srli_epi32(_mm256_castps_si256(kept), 16);
  }
  CONVFIRST_INLINE static void store_low_halves(BFloat16* p, __m256i low, __m256i high) {
    const __m256i pairs = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xD8);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), pairs);
  }
  CONVFIRST_INLINE static __m256 sixteenth_power(__m256i bits, const int32_t* table) {
    const __m256i part = _mm256_i32gather_epi32(table, _mm256_and_si256(bits, _mm256_set1_epi32(15)), 4);
    return _mm256_castsi256_ps(_mm256_add_epi32(part, _mm256_slli_epi32(bits, 19)));
  }
};
