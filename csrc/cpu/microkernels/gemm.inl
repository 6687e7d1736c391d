// The register-blocked matrix product behind every 1x1 and direct convolution.
// Tile: kRows pixels x kBlocks blocks of 16 output channels in registers; a step of k costs kBlocks loads of packed
// weights, kRows broadcasts and kRows * kBlocks FMAs, so the FMA units bind from two blocks on. V is Vec, or HalfVec
// for a last block of at most eight channels: half the register, and half the time where a wide FMA counts as two.

// Addresses of nine rows from one base and four multiples of the stride: x86 scales an index by 1, 2, 4 or 8. Left to
// itself the compiler keeps one pointer a row and spills most of them.
struct RowStrides {
  int64_t one, three, five, seven;
};

CONVFIRST_INLINE RowStrides row_strides(int64_t stride) {
  RowStrides s{stride, 3 * stride, 5 * stride, 7 * stride};
  asm volatile("" : "+r"(s.one), "+r"(s.three), "+r"(s.five), "+r"(s.seven));
  return s;
}

CONVFIRST_INLINE const float* row_of_nine(const float* base, const RowStrides& s, int row) {
  switch (row) {
    case 0: return base;
    case 1: return base + s.one;
    case 2: return base + s.one * 2;
    case 3: return base + s.three;
    case 4: return base + s.one * 4;
    case 5: return base + s.five;
    case 6: return base + s.three * 2;
    case 7: return base + s.seven;
    default: return base + s.one * 8;
  }
}

template <class V, int kRows, int kBlocks>
CONVFIRST_INLINE void multiply_step(V (&acc)[kRows][kBlocks], const float* const* bases, const RowStrides& strides,
                                    const float* b, int64_t b_block, int k) {
  V weights[kBlocks];
  CONVFIRST_UNROLL
  for (int j = 0; j < kBlocks; ++j) weights[j] = V::load(b + j * b_block + kLanes * k);
  CONVFIRST_UNROLL
  for (int i = 0; i < kRows; ++i) {
    const V a = V::set1(row_of_nine(bases[i / 9], strides, i % 9)[k]);
    CONVFIRST_UNROLL
    for (int j = 0; j < kBlocks; ++j) acc[i][j] = V::fma(a, weights[j], acc[i][j]);
  }
}

template <class V, int kBlocks>
CONVFIRST_INLINE void store_pixel(const V (&acc)[kBlocks], const GemmArgs& g, float* c, const float* residual) {
  const V low = V::set1(g.low), high = V::set1(g.high);
  CONVFIRST_UNROLL
  for (int j = 0; j < kBlocks; ++j) {
    V v = V::at_most(high, V::at_least(low, acc[j]));
    if (j == kBlocks - 1 && g.last_lanes < V::kWidth) {
      if (residual) v = v + V::load_partial(residual + j * g.c_block, g.last_lanes);
      v.store_partial(c + j * g.c_block, g.last_lanes);
    } else {
      if (residual) v = v + V::load(residual + j * g.c_block);
      v.store(c + j * g.c_block);
    }
  }
}

template <class V, int kRows, int kBlocks>
CONVFIRST_INLINE void store_tile(const V (&acc)[kRows][kBlocks], const GemmArgs& g) {
  float* c = g.c;
  const float* residual = g.residual;
  int64_t until_gap = g.c_row - g.c_column;
  CONVFIRST_UNROLL
  for (int i = 0; i < kRows; ++i) {
    store_pixel<V, kBlocks>(acc[i], g, c, residual);
    c += g.c_stride;
    if (residual) residual += g.residual_stride;
    if (--until_gap == 0) {
      c += g.c_gap;
      until_gap = g.c_row;
    }
  }
}

template <class V, int kRows, int kBlocks>
CONVFIRST_INLINE void multiply_tile(const GemmArgs& g) {
  constexpr int kBases = (kRows + 8) / 9;
  constexpr int kSteps = 4;
  V acc[kRows][kBlocks];
  CONVFIRST_UNROLL
  for (int i = 0; i < kRows; ++i) {
    CONVFIRST_UNROLL
    for (int j = 0; j < kBlocks; ++j) {
      acc[i][j] = V::load(g.init + i * g.init_stride + j * g.init_block);
    }
  }
  const RowStrides strides = row_strides(g.a_stride);
  const int64_t b_block = g.b_block;
  const float* b = g.b;
  for (int64_t t = 0; t < g.tap_count; ++t) {
    const float* bases[kBases];
    CONVFIRST_UNROLL
    for (int n = 0; n < kBases; ++n) {
      bases[n] = g.a + g.taps[t] + n * 9 * g.a_stride;
      asm volatile("" : "+r"(bases[n]));
    }
    int64_t k = g.depth;
    for (; k >= kSteps; k -= kSteps) {
      CONVFIRST_UNROLL
      for (int s = 0; s < kSteps; ++s) multiply_step<V, kRows, kBlocks>(acc, bases, strides, b, b_block, s);
      b += kLanes * kSteps;
      CONVFIRST_UNROLL
      for (int n = 0; n < kBases; ++n) bases[n] += kSteps;
    }
    for (; k > 0; --k) {
      multiply_step<V, kRows, kBlocks>(acc, bases, strides, b, b_block, 0);
      b += kLanes;
      CONVFIRST_UNROLL
      for (int n = 0; n < kBases; ++n) bases[n] += 1;
    }
  }
  store_tile<V, kRows, kBlocks>(acc, g);
}

template <int kRows, int kBlocks>
void gemm(const GemmArgs& g) {
  multiply_tile<Vec, kRows, kBlocks>(g);
}

template <int kRows>
void gemm_half(const GemmArgs& g) {
  multiply_tile<HalfVec, kRows, 1>(g);
}
