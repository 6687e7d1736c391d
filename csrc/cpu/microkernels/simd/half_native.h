// fp16 arithmetic in one instruction each: AVX512-FP16. x86 max and min give their second operand where either is NaN.

CONVFIRST_INLINE __m512i half_fma(__m512i a, __m512i b, __m512i c) {
  return _mm512_castph_si512(_mm512_fmadd_ph(_mm512_castsi512_ph(a), _mm512_castsi512_ph(b), _mm512_castsi512_ph(c)));
}
CONVFIRST_INLINE __m512i half_add(__m512i a, __m512i b) {
  return _mm512_castph_si512(_mm512_add_ph(_mm512_castsi512_ph(a), _mm512_castsi512_ph(b)));
}
CONVFIRST_INLINE __m512i half_max(__m512i a, __m512i b) {
  return _mm512_castph_si512(_mm512_max_ph(_mm512_castsi512_ph(a), _mm512_castsi512_ph(b)));
}
CONVFIRST_INLINE __m512i half_min(__m512i a, __m512i b) {
  return _mm512_castph_si512(_mm512_min_ph(_mm512_castsi512_ph(a), _mm512_castsi512_ph(b)));
}
CONVFIRST_INLINE __m256i half_fma(__m256i a, __m256i b, __m256i c) {
  return _mm256_castph_si256(_mm256_fmadd_ph(_mm256_castsi256_ph(a), _mm256_castsi256_ph(b), _mm256_castsi256_ph(c)));
}
CONVFIRST_INLINE __m256i half_add(__m256i a, __m256i b) {
  return _mm256_castph_si256(_mm256_add_ph(_mm256_castsi256_ph(a), _mm256_castsi256_ph(b)));
}
CONVFIRST_INLINE __m256i half_max(__m256i a, __m256i b) {
  return _mm256_castph_si256(_mm256_max_ph(_mm256_castsi256_ph(a), _mm256_castsi256_ph(b)));
}
CONVFIRST_INLINE __m256i half_min(__m256i a, __m256i b) {
  return _mm256_castph_si256(_mm256_min_ph(_mm256_castsi256_ph(a), _mm256_castsi256_ph(b)));
}

// As a _Float16, so that the compiler makes it the FMA's broadcasting operand.
CONVFIRST_INLINE __m512i half_broadcast_512(const Half* p) {
  _Float16 x;
  __builtin_memcpy(&x, p, sizeof x);
  return _mm512_castph_si512(_mm512_set1_ph(x));
}
CONVFIRST_INLINE __m256i half_broadcast_256(const Half* p) {
  _Float16 x;
  __builtin_memcpy(&x, p, sizeof x);
  return _mm256_castph_si256(_mm256_set1_ph(x));
}
