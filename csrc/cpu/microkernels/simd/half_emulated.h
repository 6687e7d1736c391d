// What AVX512-FP16 computes, out of fp32 instructions whose results are rounded to fp16: slow, and the same values but
// for a sum that fp32 rounds onto the middle between two fp16 numbers. For tests and for accuracy studies.

CONVFIRST_INLINE __m512 low_floats(__m512i v) { return _mm512_cvtph_ps(_mm512_castsi512_si256(v)); }
CONVFIRST_INLINE __m512 high_floats(__m512i v) { return _mm512_cvtph_ps(_mm512_extracti64x4_epi64(v, 1)); }
CONVFIRST_INLINE __m256i rounded(__m512 x) { return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT); }
CONVFIRST_INLINE __m512i rounded(__m512 low, __m512 high) {
  return _mm512_inserti64x4(_mm512_castsi256_si512(rounded(low)), rounded(high), 1);
}

CONVFIRST_INLINE __m512i half_fma(__m512i a, __m512i b, __m512i c) {
  return rounded(_mm512_fmadd_ps(low_floats(a), low_floats(b), low_floats(c)),
                 _mm512_fmadd_ps(high_floats(a), high_floats(b), high_floats(c)));
}
CONVFIRST_INLINE __m512i half_add(__m512i a, __m512i b) {
  return rounded(_mm512_add_ps(low_floats(a), low_floats(b)), _mm512_add_ps(high_floats(a), high_floats(b)));
}
CONVFIRST_INLINE __m512i half_max(__m512i a, __m512i b) {
  return rounded(_mm512_max_ps(low_floats(a), low_floats(b)), _mm512_max_ps(high_floats(a), high_floats(b)));
}
CONVFIRST_INLINE __m512i half_min(__m512i a, __m512i b) {
  return rounded(_mm512_min_ps(low_floats(a), low_floats(b)), _mm512_min_ps(high_floats(a), high_floats(b)));
}
CONVFIRST_INLINE __m256i half_fma(__m256i a, __m256i b, __m256i c) {
  return rounded(_mm512_fmadd_ps(_mm512_cvtph_ps(a), _mm512_cvtph_ps(b), _mm512_cvtph_ps(c)));
}
CONVFIRST_INLINE __m256i half_add(__m256i a, __m256i b) {
  return rounded(_mm512_add_ps(_mm512_cvtph_ps(a), _mm512_cvtph_ps(b)));
}
CONVFIRST_INLINE __m256i half_max(__m256i a, __m256i b) {
  return rounded(_mm512_max_ps(_mm512_cvtph_ps(a), _mm512_cvtph_ps(b)));
}
CONVFIRST_INLINE __m256i half_min(__m256i a, __m256i b) {
  return rounded(_mm512_min_ps(_mm512_cvtph_ps(a), _mm512_cvtph_ps(b)));
}

CONVFIRST_INLINE __m512i half_broadcast_512(const Half* p) { return _mm512_set1_epi16(static_cast<short>(p->bits)); }
CONVFIRST_INLINE __m256i half_broadcast_256(const Half* p) { return _mm256_set1_epi16(static_cast<short>(p->bits)); }
