// The transforms of Winograd's minimal filtering, Y = A^T [(G g G^T) . (B^T d B)] A (Lavin and Gray, "Fast Algorithms
// for Convolutional Neural Networks", arXiv 1509.09308), of one tile and all its channels. F(2x2, 3x3) interpolates at
// 0, 1 and -1; F(4x4, 3x3) at 0, +-1/sqrt(2) and +-sqrt(2), whose products are 1: rounding then costs no more than the
// long sums of a direct convolution, where the usual points +-1 and +-2 lose three bits.

template <int kOut>
constexpr int kWinogradIn = kOut + 2;

constexpr float kRootHalf = 0.70710678118654752f, kRootTwo = 1.41421356237309505f;

// A row of B^T d for one column, whose pixels `at(row)` gives, and the row after it where both share their terms.
template <int kOut, int kRow, class V, class At>
CONVFIRST_INLINE void transform_column(V& first, V& second, const At& at) {
  if constexpr (kOut == 2) {
    if constexpr (kRow == 0) first = at(0) - at(2);
    if constexpr (kRow == 1) {
      const V one = at(1), two = at(2);
      first = one + two, second = two - one;
    }
    if constexpr (kRow == 3) first = at(1) - at(3);
  } else {
    if constexpr (kRow == 0) first = V::fma(V::set1(-2.5f), at(2), at(0) + at(4));
    if constexpr (kRow == 1 || kRow == 3) {
      constexpr float kNear = kRow == 1 ? -2.0f : -0.5f, kFactor = kRow == 1 ? kRootHalf : kRootTwo;
      const V even = V::fma(V::set1(kNear), at(2), at(4)), odd = V::fma(V::set1(kNear), at(1), at(3));
      first = V::fma(V::set1(kFactor), odd, even), second = V::fma(V::set1(-kFactor), odd, even);
    }
    if constexpr (kRow == 5) first = V::fma(V::set1(-2.5f), at(3), at(1) + at(5));
  }
}

// (B^T d) B of one row of B^T d, to consecutive positions.
template <int kOut, class V>
CONVFIRST_INLINE void transform_row(const V (&t)[kWinogradIn<kOut>], Element<V>* out, int64_t position_step) {
  V r[kWinogradIn<kOut>];
  const auto at = [&](int column) CONVFIRST_ALWAYS_INLINE { return t[column]; };
  transform_column<kOut, 0>(r[0], r[0], at);
  transform_column<kOut, 1>(r[1], r[2], at);
  if constexpr (kOut == 4) transform_column<kOut, 3>(r[3], r[4], at);
  transform_column<kOut, kOut + 1>(r[kOut + 1], r[kOut + 1], at);
  CONVFIRST_UNROLL
  for (int i = 0; i < kWinogradIn<kOut>; ++i) r[i].store(out + i * position_step);
}

// Row kRow of the result, and the one after it where they share terms: pixels are loaded once a group of rows, which
// costs less than to store all columns in between.
template <int kOut, int kRow, class V, class Load>
CONVFIRST_INLINE void transform_rows(const Load& load, Element<V>* out, int64_t position_step) {
  constexpr int kIn = kWinogradIn<kOut>;
  constexpr bool kPair = kRow != 0 && kRow != kIn - 1;
  V first[kIn], second[kIn];
  CONVFIRST_UNROLL
  for (int column = 0; column < kIn; ++column) {
    const auto at = [&](int row) CONVFIRST_ALWAYS_INLINE { return load(row * kIn + column); };
    transform_column<kOut, kRow>(first[column], second[column], at);
  }
  transform_row<kOut>(first, out + kRow * kIn * position_step, position_step);
  if constexpr (kPair) transform_row<kOut>(second, out + (kRow + 1) * kIn * position_step, position_step);
}

template <int kOut, class V, class Load>
CONVFIRST_INLINE void transform_block(const Load& load, Element<V>* out, int64_t position_step) {
  transform_rows<kOut, 0, V>(load, out, position_step);
  transform_rows<kOut, 1, V>(load, out, position_step);
  if constexpr (kOut == 4) transform_rows<kOut, 3, V>(load, out, position_step);
  transform_rows<kOut, kOut + 1, V>(load, out, position_step);
}

// A row of G g for one column, and the row after it where both share their terms.
template <int kOut, int kRow, class V, class At>
CONVFIRST_INLINE void filter_column(V& first, V& second, const At& at) {
  if constexpr (kRow == 0) first = at(0);
  if constexpr (kRow == kOut + 1) first = at(2);
  if constexpr (kRow != 0 && kRow != kOut + 1) {
    // Of 1, x and x^2 over the products of the point's distances from the others.
    constexpr float kOuter = kOut == 2 ? 0.5f : kRow == 1 ? -2.0f / 3.0f : 1.0f / 6.0f;
    constexpr float kPoint = kOut == 2 ? 1.0f : kRow == 1 ? kRootHalf : kRootTwo;
    constexpr float kSquare = kOut == 2 ? 0.5f : kRow == 1 ? -1.0f / 3.0f : 1.0f / 3.0f;
    const V even = V::fma(V::set1(kSquare), at(2), V::set1(kOuter) * at(0));
    const V odd = V::set1(kOuter * kPoint) * at(1);
    first = even + odd, second = even - odd;
  }
}

template <int kOut, class V, class At>
CONVFIRST_INLINE void filter_all(V (&r)[kWinogradIn<kOut>], const At& at) {
  filter_column<kOut, 0>(r[0], r[0], at);
  filter_column<kOut, 1>(r[1], r[2], at);
  if constexpr (kOut == 4) filter_column<kOut, 3>(r[3], r[4], at);
  filter_column<kOut, kOut + 1>(r[kOut + 1], r[kOut + 1], at);
}

template <class E, int kOut>
void winograd_filter(const WinogradFilterArgs<E>& w) {
  using V = typename Simd<E>::Wide;
  constexpr int kIn = kWinogradIn<kOut>;
  V columns[3][kIn];
  CONVFIRST_UNROLL
  for (int column = 0; column < 3; ++column) {
    const auto at = [&](int row) CONVFIRST_ALWAYS_INLINE { return V::load(w.kernel + (row * 3 + column) * V::kWidth); };
    filter_all<kOut>(columns[column], at);
  }
  CONVFIRST_UNROLL
  for (int row = 0; row < kIn; ++row) {
    V r[kIn];
    const auto at = [&](int column) CONVFIRST_ALWAYS_INLINE { return columns[column][row]; };
    filter_all<kOut>(r, at);
    CONVFIRST_UNROLL
    for (int column = 0; column < kIn; ++column) r[column].store(w.out + (row * kIn + column) * w.position_step);
  }
}

template <class E, int kOut>
void winograd_input(const WinogradInputArgs<E>& w) {
  using V = typename Simd<E>::Wide;
  int64_t channel = 0;
  for (; channel + V::kWidth <= w.channels; channel += V::kWidth) {
    const auto load = [&](int pixel) CONVFIRST_ALWAYS_INLINE { return V::load(w.pixels[pixel] + channel); };
    transform_block<kOut, V>(load, w.out + channel, w.position_step);
  }
  const int64_t lanes = w.channels - channel;
  if (lanes == 0) return;
  const auto load = [&](int pixel)
                        CONVFIRST_ALWAYS_INLINE { return V::load_partial(w.pixels[pixel] + channel, lanes); };
  transform_block<kOut, V>(load, w.out + channel, w.position_step);
}

// A^T m of one column.
template <class V>
CONVFIRST_INLINE void gather_column(V (&y)[2], const V (&m)[4]) {
  y[0] = m[0] + m[1] + m[2];
  y[1] = m[1] - m[2] - m[3];
}
template <class V>
CONVFIRST_INLINE void gather_column(V (&y)[4], const V (&m)[6]) {
  const V near_sum = m[1] + m[2], near_difference = m[1] - m[2], far_sum = m[3] + m[4], far_difference = m[3] - m[4];
  y[0] = m[0] + near_sum + far_sum;
  y[1] = V::fma(V::set1(kRootHalf), near_difference, V::set1(kRootTwo) * far_difference);
  y[2] = V::fma(V::set1(0.5f), near_sum, far_sum + far_sum);
  y[3] = V::fma(V::set1(kRootHalf / 2.0f), near_difference, V::fma(V::set1(2.0f * kRootTwo), far_difference, m[5]));
}

template <class V>
CONVFIRST_INLINE void store_output(V v, const WinogradOutputArgs<Element<V>>& w, int64_t offset) {
  v = V::at_most(V::set1(w.high), V::at_least(V::set1(w.low), v));
  if (w.residual) {
    v = V::at_most(V::set1(w.sum_high), V::at_least(V::set1(w.sum_low), v + V::load(w.residual + offset)));
  }
  w.streams ? v.stream(w.out + offset) : v.store(w.out + offset);
}

template <class E, int kOut>
void winograd_output(const WinogradOutputArgs<E>& w) {
  using V = typename Simd<E>::Wide;
  constexpr int kIn = kWinogradIn<kOut>;
  for (int64_t channel = 0; channel < w.channels; channel += V::kWidth) {
    V rows[kOut][kIn];
    CONVFIRST_UNROLL
    for (int column = 0; column < kIn; ++column) {
      V m[kIn], y[kOut];
      CONVFIRST_UNROLL
      for (int row = 0; row < kIn; ++row) m[row] = V::load(w.sums + (row * kIn + column) * w.position_step + channel);
      gather_column(y, m);
      CONVFIRST_UNROLL
      for (int row = 0; row < kOut; ++row) rows[row][column] = y[row];
    }
    const V bias = V::load(w.bias + channel);
    CONVFIRST_UNROLL
    for (int row = 0; row < kOut; ++row) {
      if (row >= w.rows) break;
      V y[kOut];
      gather_column(y, rows[row]);
      CONVFIRST_UNROLL
      for (int column = 0; column < kOut; ++column) {
        if (column < w.columns) store_output(y[column] + bias, w, row * w.row_step + column * w.pixel_step + channel);
      }
    }
  }
}
