// Depthwise and group-width-8 convolution of a run of output pixels in one 16-channel block (CS267 report, algorithm 1,
// turned to channels-last and register-blocked): weights and sums stay in registers, every input pixel is loaded once a
// kernel row and slides along the outputs that it meets.

template <class V>
using ArgsOf = SpatialArgs<Element<V>>;

// Strides as compile-time constants where input and output are channel-blocked, as inside a fused block: addresses are
// then displacements.
template <class V, bool kBlocked>
struct SpatialStrides {
  int64_t in, out;
  CONVFIRST_INLINE explicit SpatialStrides(const ArgsOf<V>& s) : in(s.in_stride), out(s.out_stride) {}
  CONVFIRST_INLINE int64_t in_stride() const { return kBlocked ? V::kWidth : in; }
  CONVFIRST_INLINE int64_t out_stride() const { return kBlocked ? V::kWidth : out; }
};

template <class V>
CONVFIRST_INLINE bool is_blocked(const ArgsOf<V>& s) {
  return s.in_stride == V::kWidth && s.out_stride == V::kWidth && s.lanes == V::kWidth;
}

template <class V, int kTile, bool kBlocked>
CONVFIRST_INLINE void store_run(const V (&acc)[kTile], const ArgsOf<V>& s, Element<V>* out) {
  const V low = V::set1(s.low), high = V::set1(s.high);
  const int64_t stride = SpatialStrides<V, kBlocked>(s).out_stride();
  if (!kBlocked && s.streams && s.lanes == V::kWidth) {
    CONVFIRST_UNROLL
    for (int t = 0; t < kTile; ++t) V::at_most(high, V::at_least(low, acc[t])).stream(out + t * stride);
  } else if (kBlocked || s.lanes == V::kWidth) {
    CONVFIRST_UNROLL
    for (int t = 0; t < kTile; ++t) V::at_most(high, V::at_least(low, acc[t])).store(out + t * stride);
  } else {
    CONVFIRST_UNROLL
    for (int t = 0; t < kTile; ++t) {
      V::at_most(high, V::at_least(low, acc[t])).store_partial(out + t * stride, s.lanes);
    }
  }
}

// The products of one input pixel with the kernel columns that reach it.
template <class V, int kKernel, int kStride, int kTile>
CONVFIRST_INLINE void scatter_pixel(V (&acc)[kTile], const V (&weights)[kKernel], V pixel, int column) {
  CONVFIRST_UNROLL
  for (int kx = 0; kx < kKernel; ++kx) {
    const int offset = column - kx;
    if (offset >= 0 && offset % kStride == 0 && offset / kStride < kTile) {
      acc[offset / kStride] = V::fma(pixel, weights[kx], acc[offset / kStride]);
    }
  }
}

template <class V, int kKernel, int kStride, int kTile, bool kBlocked>
CONVFIRST_INLINE void depthwise_runs(const ArgsOf<V>& s) {
  constexpr int kColumns = (kTile - 1) * kStride + kKernel;
  const int64_t in_stride = SpatialStrides<V, kBlocked>(s).in_stride();
  const V bias = V::load(s.bias);
  const Element<V>* const* rows = s.rows;
  Element<V>* out = s.out;
  for (int64_t run = 0; run < s.runs; ++run, rows += s.rows_step, out += s.out_row) {
    V acc[kTile];
    CONVFIRST_UNROLL
    for (int t = 0; t < kTile; ++t) acc[t] = bias;
    CONVFIRST_UNROLL
    for (int ky = 0; ky < kKernel; ++ky) {
      if (!rows[ky]) continue;
      const Element<V>* row = rows[ky] + s.in_offset;
      V weights[kKernel];
      CONVFIRST_UNROLL
      for (int kx = 0; kx < kKernel; ++kx) weights[kx] = V::load(s.weights + (ky * kKernel + kx) * V::kWidth);
      CONVFIRST_UNROLL
      for (int column = 0; column < kColumns; ++column) {
        scatter_pixel<V, kKernel, kStride, kTile>(acc, weights, V::load(row + column * in_stride), column);
      }
    }
    store_run<V, kTile, kBlocked>(acc, s, out);
  }
}

template <class V, int kKernel, int kStride, int kTile>
void depthwise(const ArgsOf<V>& s) {
  is_blocked<V>(s) ? depthwise_runs<V, kKernel, kStride, kTile, true>(s)
                   : depthwise_runs<V, kKernel, kStride, kTile, false>(s);
}

template <class V, int kKernel, int kStride, int kTile, int kInput>
CONVFIRST_INLINE void accumulate_group_input(V (&acc)[kTile], const Element<V>* row, int64_t in_stride,
                                             const Element<V>* weights) {
  constexpr int kColumns = (kTile - 1) * kStride + kKernel;
  V taps[kKernel];
  CONVFIRST_UNROLL
  for (int kx = 0; kx < kKernel; ++kx) taps[kx] = V::load(weights + (kx * 8 + kInput) * V::kWidth);
  CONVFIRST_UNROLL
  for (int column = 0; column < kColumns; ++column) {
    const V pixel = V::template spread_in_groups<kInput>(V::load(row + column * in_stride));
    scatter_pixel<V, kKernel, kStride, kTile>(acc, taps, pixel, column);
  }
}

// Two groups of eight share a register: an input channel is spread over its group by one permutation, which then
// serves every kernel column and output that the pixel meets.
template <class V, int kKernel, int kStride, int kTile>
CONVFIRST_INLINE void grouped8_run(const ArgsOf<V>& s, const Element<V>* const* rows, Element<V>* out) {
  V acc[kTile];
  CONVFIRST_UNROLL
  for (int t = 0; t < kTile; ++t) acc[t] = V::load(s.bias);
  for (int ky = 0; ky < kKernel; ++ky) {
    if (!rows[ky]) continue;
    const Element<V>* row = rows[ky] + s.in_offset;
    const Element<V>* weights = s.weights + ky * kKernel * 8 * V::kWidth;
    accumulate_group_input<V, kKernel, kStride, kTile, 0>(acc, row, s.in_stride, weights);
    accumulate_group_input<V, kKernel, kStride, kTile, 1>(acc, row, s.in_stride, weights);
    accumulate_group_input<V, kKernel, kStride, kTile, 2>(acc, row, s.in_stride, weights);
    accumulate_group_input<V, kKernel, kStride, kTile, 3>(acc, row, s.in_stride, weights);
    accumulate_group_input<V, kKernel, kStride, kTile, 4>(acc, row, s.in_stride, weights);
    accumulate_group_input<V, kKernel, kStride, kTile, 5>(acc, row, s.in_stride, weights);
    accumulate_group_input<V, kKernel, kStride, kTile, 6>(acc, row, s.in_stride, weights);
    accumulate_group_input<V, kKernel, kStride, kTile, 7>(acc, row, s.in_stride, weights);
  }
  store_run<V, kTile, false>(acc, s, out);
}

template <class V, int kKernel, int kStride, int kTile>
void grouped8(const ArgsOf<V>& s) {
  for (int64_t run = 0; run < s.runs; ++run) {
    grouped8_run<V, kKernel, kStride, kTile>(s, s.rows + run * s.rows_step, s.out + run * s.out_row);
  }
}

template <class V, int kTile>
CONVFIRST_INLINE void depthwise_any_run(const ArgsOf<V>& s, const Element<V>* const* rows, Element<V>* out) {
  V acc[kTile];
  CONVFIRST_UNROLL
  for (int t = 0; t < kTile; ++t) acc[t] = V::load(s.bias);
  for (int64_t ky = 0; ky < s.kernel_h; ++ky) {
    if (!rows[ky]) continue;
    for (int64_t kx = 0; kx < s.kernel_w; ++kx) {
      const V weight = V::load(s.weights + (ky * s.kernel_w + kx) * V::kWidth);
      const Element<V>* in = rows[ky] + s.in_offset + kx * s.dilation * s.in_stride;
      CONVFIRST_UNROLL
      for (int t = 0; t < kTile; ++t) {
        acc[t] = V::fma(V::load(in + t * s.stride * s.in_stride), weight, acc[t]);
      }
    }
  }
  store_run<V, kTile, false>(acc, s, out);
}

template <class V, int kTile>
void depthwise_any(const ArgsOf<V>& s) {
  for (int64_t run = 0; run < s.runs; ++run) {
    depthwise_any_run<V, kTile>(s, s.rows + run * s.rows_step, s.out + run * s.out_row);
  }
}

template <class V, int kTile, int kInput>
CONVFIRST_INLINE void accumulate_group_tap(V (&acc)[kTile], const Element<V>* in, int64_t step,
                                           const Element<V>* weights) {
  const V weight = V::load(weights + kInput * V::kWidth);
  CONVFIRST_UNROLL
  for (int t = 0; t < kTile; ++t) {
    acc[t] = V::fma(V::template spread_in_groups<kInput>(V::load(in + t * step)), weight, acc[t]);
  }
}

template <class V, int kTile>
CONVFIRST_INLINE void grouped8_any_run(const ArgsOf<V>& s, const Element<V>* const* rows, Element<V>* out) {
  V acc[kTile];
  CONVFIRST_UNROLL
  for (int t = 0; t < kTile; ++t) acc[t] = V::load(s.bias);
  const int64_t step = s.stride * s.in_stride;
  for (int64_t ky = 0; ky < s.kernel_h; ++ky) {
    if (!rows[ky]) continue;
    for (int64_t kx = 0; kx < s.kernel_w; ++kx) {
      const Element<V>* weights = s.weights + (ky * s.kernel_w + kx) * 8 * V::kWidth;
      const Element<V>* in = rows[ky] + s.in_offset + kx * s.dilation * s.in_stride;
      accumulate_group_tap<V, kTile, 0>(acc, in, step, weights);
      accumulate_group_tap<V, kTile, 1>(acc, in, step, weights);
      accumulate_group_tap<V, kTile, 2>(acc, in, step, weights);
      accumulate_group_tap<V, kTile, 3>(acc, in, step, weights);
      accumulate_group_tap<V, kTile, 4>(acc, in, step, weights);
      accumulate_group_tap<V, kTile, 5>(acc, in, step, weights);
      accumulate_group_tap<V, kTile, 6>(acc, in, step, weights);
      accumulate_group_tap<V, kTile, 7>(acc, in, step, weights);
    }
  }
  store_run<V, kTile, false>(acc, s, out);
}

template <class V, int kTile>
void grouped8_any(const ArgsOf<V>& s) {
  for (int64_t run = 0; run < s.runs; ++run) {
    grouped8_any_run<V, kTile>(s, s.rows + run * s.rows_step, s.out + run * s.out_row);
  }
}
