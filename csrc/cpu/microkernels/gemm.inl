// The register-blocked matrix product behind every 1x1 and direct convolution.
// Tile: kRows pixels x kBlocks blocks of output channels in registers; a step of k costs kBlocks loads of packed
// weights, kRows broadcasts and kRows * kBlocks FMAs, so the FMA units bind from two blocks on. In fp16
// one block is best: the broadcast is then a part of the FMA, where a 16-bit broadcast alone costs a shuffle. V is the
// wide vector, or the narrow one for a last block of at most half its channels: half the register, and half the time
// where a wide FMA counts as two.

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

template <class E>
CONVFIRST_INLINE const E* row_of_nine(const E* base, const RowStrides& s, int row) {
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
CONVFIRST_INLINE void multiply_step(V (&acc)[kRows][kBlocks], const Element<V>* const* bases, const RowStrides& strides,
                                    const Element<V>* b, int64_t b_block, int k) {
  V weights[kBlocks];
  CONVFIRST_UNROLL
  for (int j = 0; j < kBlocks; ++j) weights[j] = V::load(b + j * b_block + kLanesOf<Element<V>> * k);
  CONVFIRST_UNROLL
  for (int i = 0; i < kRows; ++i) {
    const V a = V::broadcast(row_of_nine(bases[i / 9], strides, i % 9) + k);
    CONVFIRST_UNROLL
    for (int j = 0; j < kBlocks; ++j) acc[i][j] = V::fma(a, weights[j], acc[i][j]);
  }
}

template <class V, int kBlocks>
CONVFIRST_INLINE void store_pixel(const V (&acc)[kBlocks], const GemmArgs<Element<V>>& g, Element<V>* c,
                                  const Element<V>* residual) {
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
CONVFIRST_INLINE void store_tile(const V (&acc)[kRows][kBlocks], const GemmArgs<Element<V>>& g) {
  Element<V>* c = g.c;
  const Element<V>* residual = g.residual;
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

template <int kBases, class E>
CONVFIRST_INLINE void start_tap(const E* (&bases)[kBases], const GemmArgs<E>& g, int64_t tap) {
  CONVFIRST_UNROLL
  for (int n = 0; n < kBases; ++n) {
    bases[n] = g.a + g.taps[tap] + n * 9 * g.a_stride;
    asm volatile("" : "+r"(bases[n]));
  }
}

// The next `depth` products of a tap.
template <class V, int kRows, int kBlocks, int kBases>
CONVFIRST_INLINE void multiply_run(V (&acc)[kRows][kBlocks], const Element<V>* (&bases)[kBases],
                                   const RowStrides& strides, const Element<V>*& b, int64_t b_block, int64_t depth) {
  constexpr int kSteps = 4, kWidth = kLanesOf<Element<V>>;
  int64_t k = depth;
  for (; k >= kSteps; k -= kSteps) {
    CONVFIRST_UNROLL
    for (int s = 0; s < kSteps; ++s) multiply_step<V, kRows, kBlocks>(acc, bases, strides, b, b_block, s);
    b += kWidth * kSteps;
    CONVFIRST_UNROLL
    for (int n = 0; n < kBases; ++n) bases[n] += kSteps;
  }
  for (; k > 0; --k) {
    multiply_step<V, kRows, kBlocks>(acc, bases, strides, b, b_block, 0);
    b += kWidth;
    CONVFIRST_UNROLL
    for (int n = 0; n < kBases; ++n) bases[n] += 1;
  }
}

template <class V, int kRows, int kBlocks>
CONVFIRST_INLINE void multiply_tile(const GemmArgs<float>& g) {
  constexpr int kBases = (kRows + 8) / 9;
  V acc[kRows][kBlocks];
  CONVFIRST_UNROLL
  for (int i = 0; i < kRows; ++i) {
    CONVFIRST_UNROLL
    for (int j = 0; j < kBlocks; ++j) {
      acc[i][j] = V::load(g.init + i * g.init_stride + j * g.init_block);
    }
  }
  const RowStrides strides = row_strides(g.a_stride);
  const float* b = g.b;
  for (int64_t t = 0; t < g.tap_count; ++t) {
    const float* bases[kBases];
    start_tap(bases, g, t);
    if (g.b_taps) b = g.b + g.b_taps[t];
    multiply_run<V, kRows, kBlocks>(acc, bases, strides, b, g.b_block, g.depth);
  }
  store_tile<V, kRows, kBlocks>(acc, g);
}

// fp16 with its long sums in fp32. Tiles of so few products that fp16 may hold their sum do without.
template <class V, int kRows>
class HalfTile {
 public:
  CONVFIRST_INLINE explicit HalfTile(const GemmArgs<Half>& g)
      : g_(g), widens_(g.sums || g.partial || g.tap_count * g.depth > kMostHalfProducts) {}

  CONVFIRST_INLINE void run() {
    constexpr int kBases = (kRows + 8) / 9;
    V acc[kRows][1];
    start(acc);
    const RowStrides strides = row_strides(g_.a_stride);
    const Half* b = g_.b;
    int64_t left = kMostHalfProducts;
    for (int64_t t = 0; t < g_.tap_count; ++t) {
      const Half* bases[kBases];
      start_tap(bases, g_, t);
      if (g_.b_taps) b = g_.b + g_.b_taps[t];
      for (int64_t depth = g_.depth; depth > 0;) {
        const int64_t taken = depth < left ? depth : left;
        multiply_run<V, kRows, 1>(acc, bases, strides, b, 0, taken);
        depth -= taken, left -= taken;
        if (left > 0) continue;
        if (widens_) add_to_sums(acc);
        left = kMostHalfProducts;
      }
    }
    if (!widens_) return store_tile<V, kRows, 1>(acc, g_);
    if (left < kMostHalfProducts) add_to_sums(acc);
    g_.partial ? store_partial() : store_sums();
  }

 private:
  CONVFIRST_INLINE void start(V (&acc)[kRows][1]) {
    CONVFIRST_UNROLL
    for (int i = 0; i < kRows; ++i) acc[i][0] = widens_ ? V::zero() : V::load(g_.init + i * g_.init_stride);
    if (!widens_) return;
    for (int i = 0; i < kRows; ++i) {
      for (int j = 0; j < V::kWidth; j += kLanes) {
        const Vec first =
            g_.sums ? Vec::load(g_.sums + i * g_.init_stride + j) : Vec::load(g_.init + i * g_.init_stride + j);
        first.store(sums_[i] + j);
      }
    }
  }

  CONVFIRST_INLINE void add_to_sums(V (&acc)[kRows][1]) {
    CONVFIRST_UNROLL
    for (int i = 0; i < kRows; ++i) {
      acc[i][0].add_to(sums_[i]);
      acc[i][0] = V::zero();
    }
  }

  CONVFIRST_INLINE void store_partial() const {
    for (int i = 0; i < kRows; ++i) {
      for (int j = 0; j < V::kWidth; j += kLanes) Vec::load(sums_[i] + j).store(g_.partial + i * g_.c_stride + j);
    }
  }

  CONVFIRST_INLINE void store_sums() const {
    const Vec low = Vec::set1(g_.low), high = Vec::set1(g_.high);
    Half* c = g_.c;
    const Half* residual = g_.residual;
    int64_t until_gap = g_.c_row - g_.c_column;
    for (int i = 0; i < kRows; ++i) {
      for (int64_t j = 0; j < V::kWidth && j < g_.last_lanes; j += kLanes) {
        Vec v = Vec::at_most(high, Vec::at_least(low, Vec::load(sums_[i] + j)));
        if (residual) v = v + load_lanes(residual + j, g_.last_lanes - j);
        store_lanes(v, c + j, g_.last_lanes - j);
      }
      c += g_.c_stride;
      if (residual) residual += g_.residual_stride;
      if (--until_gap == 0) {
        c += g_.c_gap;
        until_gap = g_.c_row;
      }
    }
  }

  const GemmArgs<Half>& g_;
  const bool widens_;
  alignas(64) float sums_[kRows][V::kWidth];
};

template <class E, int kRows, int kBlocks>
void gemm(const GemmArgs<E>& g) {
  if constexpr (kComputesInHalf<E>) {
    HalfTile<typename Simd<E>::Wide, kRows>(g).run();
  } else {
    multiply_tile<typename Simd<E>::Wide, kRows, kBlocks>(g);
  }
}

template <class E, int kRows>
void gemm_narrow(const GemmArgs<E>& g) {
  if constexpr (kComputesInHalf<E>) {
    HalfTile<typename Simd<E>::Narrow, kRows>(g).run();
  } else {
    multiply_tile<typename Simd<E>::Narrow, kRows, 1>(g);
  }
}
