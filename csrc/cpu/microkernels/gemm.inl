// The register-blocked matrix product behind every 1x1 and direct convolution.
// Tile: kRows pixels x kBlocks blocks of output channels in registers; a step of k costs kBlocks loads of packed
// weights, kRows broadcasts and kRows * kBlocks FMAs, so the FMA units bind from two blocks on. In fp16
// one block is best: the broadcast is then a part of the FMA, where a 16-bit broadcast alone costs a shuffle. V is the
// wide vector, or the narrow one for a last block of at most half its channels: half the register, and half the time
// where a wide FMA counts as two.

// Addresses of nine rows from one base and four multiples of the stride in bytes: x86 scales an index by 1, 2, 4 or 8.
// Left to itself the compiler keeps one pointer a row and spills most of them.
struct RowStrides {
  int64_t one, three, five, seven;
};

template <class E>
CONVFIRST_INLINE RowStrides row_strides(int64_t stride) {
  int64_t one = stride * static_cast<int64_t>(sizeof(E));
  asm volatile("" : "+r"(one));  // or the four become one vector product, which is slow to take apart
  int64_t three = one * 3, five = one * 5, seven = one * 8 - one;
  asm volatile("" : "+r"(three), "+r"(five), "+r"(seven));
  return {one, three, five, seven};
}

CONVFIRST_INLINE int64_t bytes_to_row(const RowStrides& s, int row) {
  switch (row) {
    case 0: return 0;
    case 1: return s.one;
    case 2: return s.one * 2;
    case 3: return s.three;
    case 4: return s.one * 4;
    case 5: return s.five;
    case 6: return s.three * 2;
    case 7: return s.seven;
    default: return s.one * 8;
  }
}

template <class E>
CONVFIRST_INLINE const E* row_of_nine(const E* base, const RowStrides& s, int row) {
  return reinterpret_cast<const E*>(reinterpret_cast<const char*>(base) + bytes_to_row(s, row));
}

template <class V, int kRows, int kBlocks>
CONVFIRST_INLINE void multiply_step(V (&acc)[kRows][kBlocks], const Element<V>* const* bases, const RowStrides& strides,
                                    const Element<V>* const (&b)[kBlocks], int k) {
  V weights[kBlocks];
  CONVFIRST_UNROLL
  for (int j = 0; j < kBlocks; ++j) weights[j] = V::load(b[j] + kLanesOf<Element<V>> * k);
  CONVFIRST_UNROLL
  for (int i = 0; i < kRows; ++i) {
    const V a = V::broadcast(row_of_nine(bases[i / 9], strides, i % 9) + k);
    CONVFIRST_UNROLL
    for (int j = 0; j < kBlocks; ++j) acc[i][j] = V::fma(a, weights[j], acc[i][j]);
  }
}

template <class V>
CONVFIRST_INLINE V add_residual(V v, V residual, const GemmArgs<Element<V>>& g) {
  return V::at_most(V::set1(g.sum_high), V::at_least(V::set1(g.sum_low), v + residual));
}

template <class V, int kBlocks>
CONVFIRST_INLINE void store_pixel(const V (&acc)[kBlocks], const GemmArgs<Element<V>>& g, Element<V>* c,
                                  const Element<V>* residual) {
  const V low = V::set1(g.low), high = V::set1(g.high);
  CONVFIRST_UNROLL
  for (int j = 0; j < kBlocks; ++j) {
    V v = V::at_most(high, V::at_least(low, acc[j]));
    if (j == kBlocks - 1 && g.last_lanes < V::kWidth) {
      if (residual) v = add_residual(v, V::load_partial(residual + j * g.c_block, g.last_lanes), g);
      v.store_partial(c + j * g.c_block, g.last_lanes);
    } else {
      if (residual) v = add_residual(v, V::load(residual + j * g.c_block), g);
      v.store(c + j * g.c_block);
    }
  }
}

enum class Stores { kPlain, kAdds, kStreams };

// Whole blocks, and no gap between the tile's pixels.
template <Stores kStores, class V, int kRows, int kBlocks>
CONVFIRST_INLINE void store_whole_tile(const V (&acc)[kRows][kBlocks], const GemmArgs<Element<V>>& g) {
  const V low = V::set1(g.low), high = V::set1(g.high), sum_low = V::set1(g.sum_low), sum_high = V::set1(g.sum_high);
  // Copies: for all the compiler knows a store may change g.
  const int64_t stride = g.c_stride, block = g.c_block, residual_stride = g.residual_stride;
  Element<V>* c = g.c;
  const Element<V>* residual = g.residual;
  CONVFIRST_UNROLL
  for (int i = 0; i < kRows; ++i) {
    CONVFIRST_UNROLL
    for (int j = 0; j < kBlocks; ++j) {
      V v = V::at_most(high, V::at_least(low, acc[i][j]));
      if (kStores == Stores::kAdds) {
        v = V::at_most(sum_high, V::at_least(sum_low, v + V::load(residual + j * block)));
      }
      kStores == Stores::kStreams ? v.stream(c + j * block) : v.store(c + j * block);
    }
    c += stride;
    if (kStores == Stores::kAdds) residual += residual_stride;
    asm volatile("" : "+r"(c));  // one pointer that moves, not one a pixel
  }
}

template <class V, int kRows, int kBlocks>
CONVFIRST_INLINE void store_any_tile(const V (&acc)[kRows][kBlocks], const GemmArgs<Element<V>>& g) {
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

// What a tile need not ask of every pixel saves a twentieth of a product of 32 channels.
template <class V, int kRows, int kBlocks>
CONVFIRST_INLINE void store_tile(const V (&acc)[kRows][kBlocks], const GemmArgs<Element<V>>& g) {
  const bool whole = g.last_lanes >= V::kWidth && (g.c_row == 0 || g.c_column + kRows <= g.c_row);
  if (!whole) return store_any_tile<V, kRows, kBlocks>(acc, g);
  if (g.residual) return store_whole_tile<Stores::kAdds, V, kRows, kBlocks>(acc, g);
  if (g.streams) return store_whole_tile<Stores::kStreams, V, kRows, kBlocks>(acc, g);
  store_whole_tile<Stores::kPlain, V, kRows, kBlocks>(acc, g);
}

// A bias is loaded once and copied, which costs no slot: a register is renamed.
template <class V, int kRows, int kBlocks>
CONVFIRST_INLINE void start_tile(V (&acc)[kRows][kBlocks], const GemmArgs<float>& g) {
  if (g.init_stride == 0) {
    CONVFIRST_UNROLL
    for (int j = 0; j < kBlocks; ++j) {
      const V bias = V::load(g.init + j * g.init_block);
      CONVFIRST_UNROLL
      for (int i = 0; i < kRows; ++i) acc[i][j] = bias;
    }
    return;
  }
  CONVFIRST_UNROLL
  for (int i = 0; i < kRows; ++i) {
    CONVFIRST_UNROLL
    for (int j = 0; j < kBlocks; ++j) acc[i][j] = V::load(g.init + i * g.init_stride + j * g.init_block);
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

// The weights of every block from `first` on. One pointer a block: of a base and a distance the compiler would make
// several sums and spill them.
template <int kBlocks, class E>
CONVFIRST_INLINE void start_weights(const E* (&b)[kBlocks], const E* first, int64_t b_block) {
  CONVFIRST_UNROLL
  for (int j = 0; j < kBlocks; ++j) {
    b[j] = first + j * b_block;
    asm volatile("" : "+r"(b[j]));
  }
}

// The next `depth` products of a tap.
template <class V, int kRows, int kBlocks, int kBases>
CONVFIRST_INLINE void multiply_run(V (&acc)[kRows][kBlocks], const Element<V>* (&bases)[kBases],
                                   const RowStrides& strides, const Element<V>* (&b)[kBlocks], int64_t depth) {
  constexpr int kSteps = 4, kWidth = kLanesOf<Element<V>>;
  const auto advance = [&](int steps) CONVFIRST_ALWAYS_INLINE {
    CONVFIRST_UNROLL
    for (int j = 0; j < kBlocks; ++j) b[j] += kWidth * steps;
    CONVFIRST_UNROLL
    for (int n = 0; n < kBases; ++n) bases[n] += steps;
  };
  int64_t k = depth;
  for (; k >= kSteps; k -= kSteps) {
    CONVFIRST_UNROLL
    for (int s = 0; s < kSteps; ++s) multiply_step<V, kRows, kBlocks>(acc, bases, strides, b, s);
    advance(kSteps);
  }
  for (; k > 0; --k) {
    multiply_step<V, kRows, kBlocks>(acc, bases, strides, b, 0);
    advance(1);
  }
}

template <class V, int kRows, int kBlocks>
CONVFIRST_INLINE void multiply_tile(const GemmArgs<float>& g) {
  constexpr int kBases = (kRows + 8) / 9;
  V acc[kRows][kBlocks];
  start_tile<V, kRows, kBlocks>(acc, g);
  const RowStrides strides = row_strides<float>(g.a_stride);
  const float* b[kBlocks];
  start_weights(b, g.b, g.b_block);
  for (int64_t t = 0; t < g.tap_count; ++t) {
    const float* bases[kBases];
    start_tap(bases, g, t);
    if (g.b_taps) start_weights(b, g.b + g.b_taps[t], g.b_block);
    multiply_run<V, kRows, kBlocks>(acc, bases, strides, b, g.depth);
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
    const RowStrides strides = row_strides<Half>(g_.a_stride);
    const Half* b[1] = {g_.b};
    int64_t left = kMostHalfProducts;
    for (int64_t t = 0; t < g_.tap_count; ++t) {
      const Half* bases[kBases];
      start_tap(bases, g_, t);
      if (g_.b_taps) b[0] = g_.b + g_.b_taps[t];
      for (int64_t depth = g_.depth; depth > 0;) {
        const int64_t taken = depth < left ? depth : left;
        multiply_run<V, kRows, 1>(acc, bases, strides, b, taken);
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
        if (residual) {
          v = v + load_lanes(residual + j, g_.last_lanes - j);
          v = Vec::at_most(Vec::set1(g_.sum_high), Vec::at_least(Vec::set1(g_.sum_low), v));
        }
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
