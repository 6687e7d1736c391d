// Passes over a tile that is still in the cache: storage conversion at the edges of a fused region, activations that
// need an exponential, the squeeze sum and the excitation gate. Each reads and writes its values once.

template <class T>
CONVFIRST_INLINE Vec load_lanes(const T* p, int64_t lanes) {
  return lanes < kLanes ? Vec::load_partial(p, lanes) : Vec::load(p);
}

template <class T>
CONVFIRST_INLINE void store_lanes(Vec v, T* p, int64_t lanes) {
  if (lanes < kLanes) {
    v.store_partial(p, lanes);
  } else {
    v.store(p);
  }
}

template <class T>
void gather(const GatherArgs& g) {
  const T* in = static_cast<const T*>(g.in);
  for (int64_t p = 0; p < g.pixels; ++p) load_lanes(in + p * g.in_stride, g.lanes).store(g.out + p * kLanes);
}

template <class T>
void widen(const void* in, float* out, int64_t count) {
  const T* source = static_cast<const T*>(in);
  for (int64_t i = 0; i < count; i += kLanes) {
    const int64_t lanes = count - i < kLanes ? count - i : kLanes;
    store_lanes(load_lanes(source + i, lanes), out + i, lanes);
  }
}

template <class T, Activation kActivation>
CONVFIRST_INLINE void finish_block(const FinishArgs& f, int64_t block) {
  const int64_t channel = block * kLanes;
  const int64_t lanes = f.channels - channel < kLanes ? f.channels - channel : kLanes;
  const T* residual = static_cast<const T*>(f.residual);
  T* out = static_cast<T*>(f.out);
  for (int64_t p = 0; p < f.pixels; ++p) {
    Vec v = activated<kActivation>(load_lanes(f.in + p * f.in_stride + block * f.in_block, lanes));
    if (residual) v = v + load_lanes(residual + p * f.residual_stride + channel, lanes);
    store_lanes(v, out + p * f.out_stride + channel, lanes);
  }
}

template <class T>
void finish(const FinishArgs& f) {
  with_activation(f.activation, [&](auto tag) CONVFIRST_ALWAYS_INLINE {
    for (int64_t block = 0; block * kLanes < f.channels; ++block) finish_block<T, decltype(tag)::value>(f, block);
  });
}

void activate(float* values, int64_t blocks, Activation activation) {
  with_activation(activation, [&](auto tag) CONVFIRST_ALWAYS_INLINE {
    for (int64_t i = 0; i < blocks; ++i) {
      activated<decltype(tag)::value>(Vec::load(values + i * kLanes)).store(values + i * kLanes);
    }
  });
}

void sum(const float* in, int64_t pixels, float* total) {
  Vec s = Vec::load(total);
  for (int64_t p = 0; p < pixels; ++p) s = s + Vec::load(in + p * kLanes);
  s.store(total);
}

void scale(float* values, int64_t pixels, const float* factors) {
  const Vec f = Vec::load(factors);
  for (int64_t p = 0; p < pixels; ++p) (Vec::load(values + p * kLanes) * f).store(values + p * kLanes);
}

void rescale(const float* in, int64_t rows, const float* factors, float* out) {
  for (int64_t r = 0; r < rows; ++r) (Vec::load(in + r * kLanes) * Vec::set1(factors[r])).store(out + r * kLanes);
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
CONVFIRST_INLINE Vec deviation(const float* p, int64_t lanes, Vec mean) {
  const Vec d = load_lanes(p, lanes) - mean;
  if (lanes >= kLanes) return d;
  float kept[kLanes] = {};
  d.store_partial(kept, lanes);
  return Vec::load(kept);
}

CONVFIRST_INLINE void normalize_pixel(const NormalizeArgs& n, float* values) {
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

void normalize(const NormalizeArgs& n) {
  for (int64_t p = 0; p < n.pixels; ++p) normalize_pixel(n, n.values + p * n.stride);
}
