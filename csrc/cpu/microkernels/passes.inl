// Passes over a tile that is still in the cache: storage conversion at the edges of a fused region, activations that
// need an exponential, the squeeze sum and the excitation gate. Each reads and writes its values once.

template <class E, class T>
void gather(const GatherArgs<E>& g) {
  const T* in = static_cast<const T*>(g.in);
  for (int64_t p = 0; p < g.pixels; ++p) {
    for (int64_t lane = 0; lane < kLanesOf<E>; lane += kLanes) {
      const Vec v = g.lanes > lane ? load_lanes(in + p * g.in_stride + lane, g.lanes - lane) : Vec::zero();
      v.store(g.out + p * kLanesOf<E> + lane);
    }
  }
}

template <class E, class T>
void widen(const void* in, E* out, int64_t count) {
  const T* source = static_cast<const T*>(in);
  for (int64_t i = 0; i < count; i += kLanes) {
    const int64_t lanes = count - i < kLanes ? count - i : kLanes;
    store_lanes(load_lanes(source + i, lanes), out + i, lanes);
  }
}

// Three planes of plain elements: the compiler turns them into permutations of whole registers.
template <class T>
CONVFIRST_INLINE void interleave_three(const T* __restrict in, int64_t in_plane, T* __restrict out, int64_t pixels) {
  for (int64_t p = 0; p < pixels; ++p) {
    out[3 * p] = in[p];
    out[3 * p + 1] = in[p + in_plane];
    out[3 * p + 2] = in[p + 2 * in_plane];
  }
}
CONVFIRST_INLINE const uint16_t* plain(const Half* p) { return &p->bits; }
CONVFIRST_INLINE uint16_t* plain(Half* p) { return &p->bits; }
CONVFIRST_INLINE const float* plain(const float* p) { return p; }
CONVFIRST_INLINE float* plain(float* p) { return p; }

template <class E>
void interleave(const InterleaveArgs<E>& g) {
  if (g.planes == 3 && g.out_stride == 3) return interleave_three(plain(g.in), g.in_plane, plain(g.out), g.pixels);
  for (int64_t c = 0; c < g.planes; ++c) {
    for (int64_t p = 0; p < g.pixels; ++p) g.out[p * g.out_stride + c] = g.in[c * g.in_plane + p];
  }
}

template <class E>
void blur(const BlurArgs<E>& g) {
  const Vec half = Vec::set1(0.5f), quarter = Vec::set1(0.25f);
  for (int64_t i = 0; i < g.count; i += kLanes) {
    const int64_t lanes = g.count - i;
    const Vec outer = load_lanes(g.before + i, lanes) + load_lanes(g.behind + i, lanes);
    store_lanes(Vec::fma(load_lanes(g.at + i, lanes), half, outer * quarter), g.out + i, lanes);
  }
}

// Sixteen channels at most, from `channel` on.
template <class E, class T, Activation kActivation>
CONVFIRST_INLINE void finish_channels(const FinishArgs<E>& f, int64_t channel) {
  const int64_t lanes = f.channels - channel < kLanes ? f.channels - channel : kLanes;
  const E* in = f.in + channel / kLanesOf<E> * f.in_block + channel % kLanesOf<E>;
  const T* residual = static_cast<const T*>(f.residual);
  T* out = static_cast<T*>(f.out);
  for (int64_t p = 0; p < f.pixels; ++p) {
    Vec v = activated<kActivation>(load_lanes(in + p * f.in_stride, lanes));
    if (residual) {
      v = v + load_lanes(residual + p * f.residual_stride + channel, lanes);
      v = Vec::at_most(Vec::set1(f.sum_high), Vec::at_least(Vec::set1(f.sum_low), v));
    }
    store_lanes(v, out + p * f.out_stride + channel, lanes);
  }
}

template <class E, class T>
void finish(const FinishArgs<E>& f) {
  with_activation(f.activation, [&](auto tag) CONVFIRST_ALWAYS_INLINE {
    for (int64_t channel = 0; channel < f.channels; channel += kLanes) {
      finish_channels<E, T, decltype(tag)::value>(f, channel);
    }
  });
}

template <class E>
void activate(E* values, int64_t blocks, Activation activation) {
  with_activation(activation, [&](auto tag) CONVFIRST_ALWAYS_INLINE {
    for (int64_t i = 0; i < blocks * kLanesOf<E> / kLanes; ++i) {
      activated<decltype(tag)::value>(Vec::load(values + i * kLanes)).store(values + i * kLanes);
    }
  });
}

template <class E>
void sum(const E* in, int64_t pixels, float* total) {
  for (int64_t lane = 0; lane < kLanesOf<E>; lane += kLanes) {
    Vec s = Vec::load(total + lane);
    for (int64_t p = 0; p < pixels; ++p) s = s + Vec::load(in + p * kLanesOf<E> + lane);
    s.store(total + lane);
  }
}

template <class E>
void scale(E* values, int64_t pixels, const E* factors) {
  for (int64_t lane = 0; lane < kLanesOf<E>; lane += kLanes) {
    const Vec f = Vec::load(factors + lane);
    for (int64_t p = 0; p < pixels; ++p) {
      E* v = values + p * kLanesOf<E> + lane;
      (Vec::load(v) * f).store(v);
    }
  }
}

CONVFIRST_INLINE Vec first_lane_everywhere(const float* p) { return Vec::set1(*p); }
CONVFIRST_INLINE Vec first_lane_everywhere(const Half* p) {
  float lanes[kLanes];
  Vec::load_partial(p, 1).store(lanes);
  return Vec::set1(lanes[0]);
}

template <class E>
void rescale(const E* in, int64_t rows, const E* factors, E* out) {
  for (int64_t r = 0; r < rows; ++r) {
    const Vec f = first_lane_everywhere(factors + r);
    for (int64_t lane = 0; lane < kLanesOf<E>; lane += kLanes) {
      (Vec::load(in + r * kLanesOf<E> + lane) * f).store(out + r * kLanesOf<E> + lane);
    }
  }
}

// Lanes added in one order, by halves, on every machine.
CONVFIRST_INLINE float sum_of_lanes(Vec v) {
  float lanes[kLanes];
  v.store(lanes);
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

// The deviations of a block that has only `lanes` channels; zero in the others.
template <class E>
CONVFIRST_INLINE Vec deviation(const E* p, int64_t lanes, Vec mean) {
  const Vec d = load_lanes(p, lanes) - mean;
  if (lanes >= kLanes) return d;
  float kept[kLanes] = {};
  d.store_partial(kept, lanes);
  return Vec::load(kept);
}

template <class E>
CONVFIRST_INLINE void normalize_pixel(const NormalizeArgs<E>& n, E* values) {
  const float share = 1.0f / static_cast<float>(n.channels);
  Vec sum = Vec::zero(), squares = Vec::zero();
  for (int64_t c = 0; c < n.channels; c += kLanes) sum = sum + load_lanes(values + c, n.channels - c);
  const Vec mean = Vec::set1(sum_of_lanes(sum) * share);
  for (int64_t c = 0; c < n.channels; c += kLanes) {
    const Vec d = deviation(values + c, n.channels - c, mean);
    squares = Vec::fma(d, d, squares);
  }
  const Vec scale = Vec::set1(1.0f / __builtin_sqrtf(sum_of_lanes(squares) * share + n.epsilon));
  for (int64_t c = 0; c < n.channels; c += kLanes) {
    Vec v = (load_lanes(values + c, n.channels - c) - mean) * scale;
    if (n.weight) v = Vec::fma(v, Vec::load(n.weight + c), Vec::load(n.bias + c));
    store_lanes(v, values + c, n.channels - c);
  }
}

template <class E>
void normalize(const NormalizeArgs<E>& n) {
  for (int64_t p = 0; p < n.pixels; ++p) normalize_pixel(n, n.values + p * n.stride);
}
