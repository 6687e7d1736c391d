// Depthwise and group-width-8 convolution of a run of output pixels in one 16-channel block (CS267 report, algorithm 1,
// turned to channels-last and register-blocked): weights and sums stay in registers, every input pixel is loaded once a
// kernel row and slides along the outputs that it meets.

// Strides as compile-time constants where input and output are channel-blocked, as inside a fused block: addresses are
// then displacements.
template <bool kBlocked>
struct SpatialStrides {
  int64_t in, out;
  CONVFIRST_INLINE explicit SpatialStrides(const SpatialArgs& s) : in(s.in_stride), out(s.out_stride) {}
  CONVFIRST_INLINE int64_t in_stride() const { return kBlocked ? kLanes : in; }
  CONVFIRST_INLINE int64_t out_stride() const { return kBlocked ? kLanes : out; }
};

CONVFIRST_INLINE bool is_blocked(const SpatialArgs& s) {
  return s.in_stride == kLanes && s.out_stride == kLanes && s.lanes == kLanes;
}

template <int kTile, bool kBlocked>
CONVFIRST_INLINE void store_run(const Vec (&acc)[kTile], const SpatialArgs& s, float* out) {
  const Vec low = Vec::set1(s.low), high = Vec::set1(s.high);
  const int64_t stride = SpatialStrides<kBlocked>(s).out_stride();
  if (kBlocked || s.lanes == kLanes) {
    CONVFIRST_UNROLL
    for (int t = 0; t < kTile; ++t) Vec::at_most(high, Vec::at_least(low, acc[t])).store(out + t * stride);
  } else {
    CONVFIRST_UNROLL
    for (int t = 0; t < kTile; ++t) {
      Vec::at_most(high, Vec::at_least(low, acc[t])).store_partial(out + t * stride, s.lanes);
    }
  }
}

// The products of one input pixel with the kernel columns that reach it.
template <int kKernel, int kStride, int kTile>
CONVFIRST_INLINE void scatter_pixel(Vec (&acc)[kTile], const Vec (&weights)[kKernel], Vec pixel, int column) {
  CONVFIRST_UNROLL
  for (int kx = 0; kx < kKernel; ++kx) {
    const int offset = column - kx;
    if (offset >= 0 && offset % kStride == 0 && offset / kStride < kTile) {
      acc[offset / kStride] = Vec::fma(pixel, weights[kx], acc[offset / kStride]);
    }
  }
}

template <int kKernel, int kStride, int kTile, bool kBlocked>
CONVFIRST_INLINE void depthwise_runs(const SpatialArgs& s) {
  constexpr int kColumns = (kTile - 1) * kStride + kKernel;
  const int64_t in_stride = SpatialStrides<kBlocked>(s).in_stride();
  const Vec bias = Vec::load(s.bias);
  const float* const* rows = s.rows;
  float* out = s.out;
  for (int64_t run = 0; run < s.runs; ++run, rows += s.rows_step, out += s.out_row) {
    Vec acc[kTile];
    CONVFIRST_UNROLL
    for (int t = 0; t < kTile; ++t) acc[t] = bias;
    CONVFIRST_UNROLL
    for (int ky = 0; ky < kKernel; ++ky) {
      if (!rows[ky]) continue;
      const float* row = rows[ky] + s.in_offset;
      Vec weights[kKernel];
      CONVFIRST_UNROLL
      for (int kx = 0; kx < kKernel; ++kx) weights[kx] = Vec::load(s.weights + (ky * kKernel + kx) * kLanes);
      CONVFIRST_UNROLL
      for (int column = 0; column < kColumns; ++column) {
        scatter_pixel<kKernel, kStride, kTile>(acc, weights, Vec::load(row + column * in_stride), column);
      }
    }
    store_run<kTile, kBlocked>(acc, s, out);
  }
}

template <int kKernel, int kStride, int kTile>
void depthwise(const SpatialArgs& s) {
  is_blocked(s) ? depthwise_runs<kKernel, kStride, kTile, true>(s) : depthwise_runs<kKernel, kStride, kTile, false>(s);
}

template <int kKernel, int kStride, int kTile, int kInput>
CONVFIRST_INLINE void accumulate_group_input(Vec (&acc)[kTile], const float* row, int64_t in_stride,
                                             const float* weights) {
  constexpr int kColumns = (kTile - 1) * kStride + kKernel;
  Vec taps[kKernel];
  CONVFIRST_UNROLL
  for (int kx = 0; kx < kKernel; ++kx) taps[kx] = Vec::load(weights + (kx * 8 + kInput) * kLanes);
  CONVFIRST_UNROLL
  for (int column = 0; column < kColumns; ++column) {
    const Vec pixel = Vec::spread_in_groups<kInput>(Vec::load(row + column * in_stride));
    scatter_pixel<kKernel, kStride, kTile>(acc, taps, pixel, column);
  }
}

// Two groups of eight share a register: an input channel is spread over its group by one permutation, which then
// serves every kernel column and output that the pixel meets.
template <int kKernel, int kStride, int kTile>
CONVFIRST_INLINE void grouped8_run(const SpatialArgs& s, const float* const* rows, float* out) {
  Vec acc[kTile];
  CONVFIRST_UNROLL
  for (int t = 0; t < kTile; ++t) acc[t] = Vec::load(s.bias);
  for (int ky = 0; ky < kKernel; ++ky) {
    if (!rows[ky]) continue;
    const float* row = rows[ky] + s.in_offset;
    const float* weights = s.weights + ky * kKernel * 8 * kLanes;
    accumulate_group_input<kKernel, kStride, kTile, 0>(acc, row, s.in_stride, weights);
    accumulate_group_input<kKernel, kStride, kTile, 1>(acc, row, s.in_stride, weights);
    accumulate_group_input<kKernel, kStride, kTile, 2>(acc, row, s.in_stride, weights);
    accumulate_group_input<kKernel, kStride, kTile, 3>(acc, row, s.in_stride, weights);
    accumulate_group_input<kKernel, kStride, kTile, 4>(acc, row, s.in_stride, weights);
    accumulate_group_input<kKernel, kStride, kTile, 5>(acc, row, s.in_stride, weights);
    accumulate_group_input<kKernel, kStride, kTile, 6>(acc, row, s.in_stride, weights);
    accumulate_group_input<kKernel, kStride, kTile, 7>(acc, row, s.in_stride, weights);
  }
  store_run<kTile, false>(acc, s, out);
}

template <int kKernel, int kStride, int kTile>
void grouped8(const SpatialArgs& s) {
  for (int64_t run = 0; run < s.runs; ++run) {
    grouped8_run<kKernel, kStride, kTile>(s, s.rows + run * s.rows_step, s.out + run * s.out_row);
  }
}

template <int kTile>
CONVFIRST_INLINE void depthwise_any_run(const SpatialArgs& s, const float* const* rows, float* out) {
  Vec acc[kTile];
  CONVFIRST_UNROLL
  for (int t = 0; t < kTile; ++t) acc[t] = Vec::load(s.bias);
  for (int64_t ky = 0; ky < s.kernel_h; ++ky) {
    if (!rows[ky]) continue;
    for (int64_t kx = 0; kx < s.kernel_w; ++kx) {
      const Vec weight = Vec::load(s.weights + (ky * s.kernel_w + kx) * kLanes);
      const float* in = rows[ky] + s.in_offset + kx * s.dilation * s.in_stride;
      CONVFIRST_UNROLL
      for (int t = 0; t < kTile; ++t) {
        acc[t] = Vec::fma(Vec::load(in + t * s.stride * s.in_stride), weight, acc[t]);
      }
    }
  }
  store_run<kTile, false>(acc, s, out);
}

template <int kTile>
void depthwise_any(const SpatialArgs& s) {
  for (int64_t run = 0; run < s.runs; ++run) {
    depthwise_any_run<kTile>(s, s.rows + run * s.rows_step, s.out + run * s.out_row);
  }
}

template <int kTile, int kInput>
CONVFIRST_INLINE void accumulate_group_tap(Vec (&acc)[kTile], const float* in, int64_t step, const float* weights) {
  const Vec weight = Vec::load(weights + kInput * kLanes);
  CONVFIRST_UNROLL
  for (int t = 0; t < kTile; ++t) {
    acc[t] = Vec::fma(Vec::spread_in_groups<kInput>(Vec::load(in + t * step)), weight, acc[t]);
  }
}

template <int kTile>
CONVFIRST_INLINE void grouped8_any_run(const SpatialArgs& s, const float* const* rows, float* out) {
  Vec acc[kTile];
  CONVFIRST_UNROLL
  for (int t = 0; t < kTile; ++t) acc[t] = Vec::load(s.bias);
  const int64_t step = s.stride * s.in_stride;
  for (int64_t ky = 0; ky < s.kernel_h; ++ky) {
    if (!rows[ky]) continue;
    for (int64_t kx = 0; kx < s.kernel_w; ++kx) {
      const float* weights = s.weights + (ky * s.kernel_w + kx) * 8 * kLanes;
      const float* in = rows[ky] + s.in_offset + kx * s.dilation * s.in_stride;
      accumulate_group_tap<kTile, 0>(acc, in, step, weights);
      accumulate_group_tap<kTile, 1>(acc, in, step, weights);
      accumulate_group_tap<kTile, 2>(acc, in, step, weights);
      accumulate_group_tap<kTile, 3>(acc, in, step, weights);
      accumulate_group_tap<kTile, 4>(acc, in, step, weights);
      accumulate_group_tap<kTile, 5>(acc, in, step, weights);
      accumulate_group_tap<kTile, 6>(acc, in, step, weights);
      accumulate_group_tap<kTile, 7>(acc, in, step, weights);
    }
  }
  store_run<kTile, false>(acc, s, out);
}

template <int kTile>
void grouped8_any(const SpatialArgs& s) {
  for (int64_t run = 0; run < s.runs; ++run) {
    grouped8_any_run<kTile>(s, s.rows + run * s.rows_step, s.out + run * s.out_row);
  }
}
