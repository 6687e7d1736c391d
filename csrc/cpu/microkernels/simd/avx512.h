// Vec on AVX-512 (F, BW, DQ, VL): one 512-bit register; NarrowVec: one of 256 bits.

struct NarrowVec {
  __m256 v;

  static constexpr int kWidth = kNarrowLanes;
  static constexpr int kMaxNarrowRows = 28;

  CONVFIRST_INLINE static NarrowVec broadcast(const float* p) { return set1(*p); }
  CONVFIRST_INLINE static NarrowVec set1(float x) { return {_mm256_set1_ps(x)}; }
  CONVFIRST_INLINE static __mmask8 mask(int64_t lanes) { return static_cast<__mmask8>((1u << lanes) - 1u); }
  CONVFIRST_INLINE static NarrowVec load(const float* p) { return {_mm256_loadu_ps(p)}; }
  CONVFIRST_INLINE static NarrowVec load_partial(const float* p, int64_t lanes) {
    return {_mm256_maskz_loadu_ps(mask(lanes), p)};
  }
  CONVFIRST_INLINE void store(float* p) const { _mm256_storeu_ps(p, v); }
  CONVFIRST_INLINE void stream(float* p) const { store(p); }
  CONVFIRST_INLINE void store_partial(float* p, int64_t lanes) const { _mm256_mask_storeu_ps(p, mask(lanes), v); }
  CONVFIRST_INLINE static NarrowVec fma(NarrowVec a, NarrowVec b, NarrowVec c) {
    return {_mm256_fmadd_ps(a.v, b.v, c.v)};
  }
  CONVFIRST_INLINE friend NarrowVec operator+(NarrowVec a, NarrowVec b) { return {_mm256_add_ps(a.v, b.v)}; }
  CONVFIRST_INLINE static NarrowVec at_least(NarrowVec bound, NarrowVec x) { return {_mm256_max_ps(bound.v, x.v)}; }
  CONVFIRST_INLINE static NarrowVec at_most(NarrowVec bound, NarrowVec x) { return {_mm256_min_ps(bound.v, x.v)}; }
};

struct Vec {
  __m512 v;

  static constexpr int kWidth = kLanes;

  static constexpr int kMaxRows[kMaxGemmBlocks] = {28, 14, 9, 7};  // 32 registers: rows * blocks + blocks + 1
  static constexpr int kMaxTile = 14;

  CONVFIRST_INLINE static Vec zero() { return {_mm512_setzero_ps()}; }
  CONVFIRST_INLINE static Vec broadcast(const float* p) { return set1(*p); }
  CONVFIRST_INLINE static Vec set1(float x) { return {_mm512_set1_ps(x)}; }
  CONVFIRST_INLINE static __mmask16 mask(int64_t lanes) { return static_cast<__mmask16>((1u << lanes) - 1u); }

  CONVFIRST_INLINE static Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
  CONVFIRST_INLINE static Vec load(const BFloat16* p) {
    return widen_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  CONVFIRST_INLINE static Vec load(const Half* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
  }
  CONVFIRST_INLINE static Vec load_partial(const float* p, int64_t lanes) {
    return {_mm512_maskz_loadu_ps(mask(lanes), p)};
  }
  CONVFIRST_INLINE static Vec load_partial(const BFloat16* p, int64_t lanes) {
    return widen_bf16(_mm256_maskz_loadu_epi16(mask(lanes), p));
  }
  CONVFIRST_INLINE static Vec load_partial(const Half* p, int64_t lanes) {
    return {_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask(lanes), p))};
  }

  CONVFIRST_INLINE void store(float* p) const { _mm512_storeu_ps(p, v); }
  CONVFIRST_INLINE void stream(float* p) const { _mm512_stream_ps(p, v); }
  CONVFIRST_INLINE void store(BFloat16* p) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow_bf16()); }
  CONVFIRST_INLINE void store(Half* p) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow_half()); }
  CONVFIRST_INLINE void store_partial(float* p, int64_t lanes) const { _mm512_mask_storeu_ps(p, mask(lanes), v); }
  CONVFIRST_INLINE void store_partial(BFloat16* p, int64_t lanes) const {
    _mm256_mask_storeu_epi16(p, mask(lanes), narrow_bf16());
  }
  CONVFIRST_INLINE void store_partial(Half* p, int64_t lanes) const {
    _mm256_mask_storeu_epi16(p, mask(lanes), narrow_half());
  }

  CONVFIRST_INLINE static Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
  CONVFIRST_INLINE friend Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
  CONVFIRST_INLINE friend Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
  CONVFIRST_INLINE friend Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
  // 1 / x for finite x that are not subnormal: 14 bits and one Newton step.
  CONVFIRST_INLINE static Vec reciprocal(Vec x) {
    const __m512 y = _mm512_rcp14_ps(x.v);
    return {_mm512_fmadd_ps(y, _mm512_fnmadd_ps(x.v, y, _mm512_set1_ps(1.0f)), y)};
  }
  // x86 max and min give their second operand where either is NaN: the value goes second, so NaN stays NaN.
  CONVFIRST_INLINE static Vec at_least(Vec bound, Vec x) { return {_mm512_max_ps(bound.v, x.v)}; }
  CONVFIRST_INLINE static Vec at_most(Vec bound, Vec x) { return {_mm512_min_ps(bound.v, x.v)}; }
  CONVFIRST_INLINE static Vec abs(Vec x) { return {_mm512_abs_ps(x.v)}; }
  // Lanes of y where x is positive, zero elsewhere.
  CONVFIRST_INLINE static Vec where_positive(Vec x, Vec y) {
    return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x.v, _mm512_setzero_ps(), _CMP_GT_OQ), y.v)};
  }
  // 2^(n/16), n being the whole number in the low bits of a sum with kRounder.
  CONVFIRST_INLINE static Vec sixteenth_power(Vec sum, const int32_t* table) {
    const __m512i bits = _mm512_castps_si512(sum.v);
    const __m512i part = _mm512_permutexvar_epi32(bits, _mm512_load_si512(table));
    return {_mm512_castsi512_ps(_mm512_add_epi32(part, _mm512_slli_epi32(bits, 19)))};
  }
  // table[n] of 32 entries, n as above.
  CONVFIRST_INLINE static Vec look_up(const float* table, Vec sum) {
    return {_mm512_permutex2var_ps(_mm512_load_ps(table), _mm512_castps_si512(sum.v), _mm512_load_ps(table + 16))};
  }
  // Lanes 0..7 become lane k, lanes 8..15 lane 8 + k.
  template <int k>
  CONVFIRST_INLINE static Vec spread_in_groups(Vec x) {
    const __m512i index =
        _mm512_set_epi32(8 + k, 8 + k, 8 + k, 8 + k, 8 + k, 8 + k, 8 + k, 8 + k, k, k, k, k, k, k, k, k);
    return {_mm512_permutexvar_ps(index, x.v)};
  }

 private:
  CONVFIRST_INLINE static Vec widen_bf16(__m256i bits) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
  }
  CONVFIRST_INLINE __m256i narrow_half() const { return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT); }
  // Round to nearest even by integer arithmetic; NaN keeps its sign and becomes quiet.
  CONVFIRST_INLINE __m256i narrow_bf16() const {
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    const __m512i kept = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x00400000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16));
  }
};
