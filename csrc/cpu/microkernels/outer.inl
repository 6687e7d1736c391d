// Sums of products over pixels, for weight gradients: channels of one tensor by channels of another stay in registers
// while the pixels pass. A pixel costs kBlocks loads, kRows broadcasts and kRows * kBlocks FMAs.

template <class V, int kBlocks>
CONVFIRST_INLINE void load_blocks(V (&b)[kBlocks], const Element<V>* p, int64_t last_lanes) {
  CONVFIRST_UNROLL
  for (int j = 0; j < kBlocks - 1; ++j) b[j] = V::load(p + j * V::kWidth);
  const Element<V>* last = p + (kBlocks - 1) * V::kWidth;
  b[kBlocks - 1] = last_lanes < V::kWidth ? V::load_partial(last, last_lanes) : V::load(last);
}

template <class E, int kRows, int kBlocks>
void outer(const OuterArgs<E>& o) {
  using V = typename Simd<E>::Wide;
  V acc[kRows][kBlocks];
  CONVFIRST_UNROLL
  for (int i = 0; i < kRows; ++i) {
    CONVFIRST_UNROLL
    for (int j = 0; j < kBlocks; ++j) acc[i][j] = V::zero();
  }
  for (int64_t run = 0; run < o.run_count; ++run) {
    const E* a = o.a + o.a_runs[run];
    const E* b = o.b + o.b_runs[run];
    for (int64_t p = 0; p < o.pixels; ++p, a += o.a_step, b += o.b_step) {
      V right[kBlocks];
      load_blocks<V, kBlocks>(right, b, o.last_lanes);
      CONVFIRST_UNROLL
      for (int i = 0; i < kRows; ++i) {
        const V left = V::broadcast(a + i);
        CONVFIRST_UNROLL
        for (int j = 0; j < kBlocks; ++j) acc[i][j] = V::fma(left, right[j], acc[i][j]);
      }
    }
  }
  CONVFIRST_UNROLL
  for (int i = 0; i < kRows; ++i) {
    CONVFIRST_UNROLL
    for (int j = 0; j < kBlocks; ++j) {
      E* c = o.c + j * o.c_block + i * V::kWidth;
      (V::load(c) + acc[i][j]).store(c);
    }
  }
}

// Four sums, so that one FMA need not wait for the last; added pairwise.
template <class E>
void inner(const OuterArgs<E>& o) {
  using V = typename Simd<E>::Wide;
  V acc[4] = {V::zero(), V::zero(), V::zero(), V::zero()};
  const bool whole = o.last_lanes == V::kWidth;
  const auto at = [&](const E* p)
                      CONVFIRST_ALWAYS_INLINE { return whole ? V::load(p) : V::load_partial(p, o.last_lanes); };
  for (int64_t run = 0; run < o.run_count; ++run) {
    const E* a = o.a + o.a_runs[run];
    const E* b = o.b + o.b_runs[run];
    int64_t p = 0;
    for (; p + 4 <= o.pixels; p += 4) {
      CONVFIRST_UNROLL
      for (int s = 0; s < 4; ++s) acc[s] = V::fma(at(a + (p + s) * o.a_step), at(b + (p + s) * o.b_step), acc[s]);
    }
    for (; p < o.pixels; ++p) acc[0] = V::fma(at(a + p * o.a_step), at(b + p * o.b_step), acc[0]);
  }
  (V::load(o.c) + ((acc[0] + acc[1]) + (acc[2] + acc[3]))).store(o.c);
}

template <class V, int... kInputs>
CONVFIRST_INLINE void add_spread(V (&acc)[sizeof...(kInputs)], V left, V right) {
  ((acc[kInputs] = V::fma(V::template spread_in_groups<kInputs>(left), right, acc[kInputs])), ...);
}

// c[i][n] += sum A[n / 8 * 8 + i] * B[n]: lanes by the eight lanes of their group.
template <class E>
void inner8(const OuterArgs<E>& o) {
  using V = typename Simd<E>::Wide;
  V acc[8];
  CONVFIRST_UNROLL
  for (int i = 0; i < 8; ++i) acc[i] = V::zero();
  const bool whole = o.last_lanes == V::kWidth;
  const auto at = [&](const E* p)
                      CONVFIRST_ALWAYS_INLINE { return whole ? V::load(p) : V::load_partial(p, o.last_lanes); };
  for (int64_t run = 0; run < o.run_count; ++run) {
    const E* a = o.a + o.a_runs[run];
    const E* b = o.b + o.b_runs[run];
    for (int64_t p = 0; p < o.pixels; ++p, a += o.a_step, b += o.b_step) {
      add_spread<V, 0, 1, 2, 3, 4, 5, 6, 7>(acc, at(a), at(b));
    }
  }
  CONVFIRST_UNROLL
  for (int i = 0; i < 8; ++i) {
    E* c = o.c + i * V::kWidth;
    (V::load(c) + acc[i]).store(c);
  }
}

template <class V, int kInput>
CONVFIRST_INLINE void add_to_three(V (&acc)[3][8], V left, const V (&right)[3]) {
  const V spread = V::template spread_in_groups<kInput>(left);
  CONVFIRST_UNROLL
  for (int j = 0; j < 3; ++j) acc[j][kInput] = V::fma(spread, right[j], acc[j][kInput]);
}

// The same for three kernel columns at once, c[j] with B[p + 2 - j], so that a spread serves three products: the
// kernel columns of a 3x3 convolution of stride 1, whose B has two zeros on either side of a row.
template <class E>
void inner8_three(const OuterArgs<E>& o) {
  using V = typename Simd<E>::Wide;
  V acc[3][8];
  CONVFIRST_UNROLL
  for (int i = 0; i < 24; ++i) acc[i / 8][i % 8] = V::zero();
  for (int64_t run = 0; run < o.run_count; ++run) {
    const E* a = o.a + o.a_runs[run];
    const E* b = o.b + o.b_runs[run];
    V right[3] = {V::zero(), V::load(b + o.b_step), V::load(b)};
    for (int64_t p = 0; p < o.pixels; ++p, a += o.a_step, b += o.b_step) {
      right[0] = V::load(b + 2 * o.b_step);
      const V left = V::load(a);
      add_to_three<V, 0>(acc, left, right);
      add_to_three<V, 1>(acc, left, right);
      add_to_three<V, 2>(acc, left, right);
      add_to_three<V, 3>(acc, left, right);
      add_to_three<V, 4>(acc, left, right);
      add_to_three<V, 5>(acc, left, right);
      add_to_three<V, 6>(acc, left, right);
      add_to_three<V, 7>(acc, left, right);
      right[2] = right[1], right[1] = right[0];
    }
  }
  CONVFIRST_UNROLL
  for (int i = 0; i < 24; ++i) {
    E* c = o.c + i / 8 * o.c_block + i % 8 * V::kWidth;
    (V::load(c) + acc[i / 8][i % 8]).store(c);
  }
}
