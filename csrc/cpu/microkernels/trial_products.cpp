// Trials of the kernels that multiply: matrix products, depthwise and group-width-8 runs.
#include <algorithm>
#include <cmath>
#include <memory>

#include "trial.h"

namespace convfirst {

double worst(const std::vector<float>& actual, const std::vector<float>& expected) {
  double largest = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    const double difference = std::fabs(static_cast<double>(actual[i]) - expected[i]);
    if (!(difference <= largest)) largest = difference;
  }
  return largest;
}

namespace {

// One product and everything it reads and writes. In fp16, sums may come and go in fp32.
template <class E>
struct GemmCall {
  int64_t rows, width, stride, block, row, column, gap;
  bool from_sums, to_sums;
  std::vector<E> a, b, bias, residual, c;
  std::vector<float> sums, partial;
  std::vector<int64_t> offsets;
  GemmArgs<E> args{};

  GemmCall(const GemmTrial& kind, Random& random, bool timing) {
    const int64_t lanes = kLanesOf<E>, blocks = kind.blocks, taps = timing ? 1 : 2;
    const bool half = std::is_same_v<E, Half>;
    const int64_t depth = timing ? 96 : 1 + random.below(half && random.below(3) == 0 ? 120 : 23);
    const int64_t last = timing ? kind.most_lanes : 1 + random.below(kind.most_lanes);
    from_sums = half && !timing && random.below(2) == 1, to_sums = half && !timing && random.below(2) == 1;
    rows = kind.rows, width = blocks * lanes, stride = depth * taps, block = stride * lanes;
    row = timing || to_sums ? 0 : random.below(10), column = row ? random.below(static_cast<int>(row)) : 0, gap = 3;
    a = random.elements<E>(rows * stride), b = random.elements<E>(blocks * block);
    bias = random.elements<E>(width), residual = random.elements<E>(rows * width);
    c = elements_of<E>(std::vector<float>(static_cast<size_t>(rows * width + gaps() * gap), kSentinel));
    sums = random.integers(rows * width);
    partial.assign(sums.size(), kSentinel);
    for (int64_t t = 0; t < taps; ++t) offsets.push_back(t * depth);
    args.tap_count = taps, args.depth = depth, args.a_stride = stride, args.b_block = block;
    args.init_block = lanes, args.init_stride = from_sums ? width : 0;
    args.c_stride = width, args.c_block = lanes, args.c_row = row, args.c_column = column, args.c_gap = gap;
    args.residual_stride = width, args.low = -40.0f, args.high = 50.0f, args.last_lanes = last;
    point(!timing);
  }
  GemmCall(const GemmCall&) = delete;
  GemmCall& operator=(const GemmCall&) = delete;

  void point(bool adds) {
    args.a = a.data(), args.taps = offsets.data(), args.b = b.data(), args.init = bias.data(), args.c = c.data();
    args.residual = adds ? residual.data() : nullptr;
    args.sums = from_sums ? sums.data() : nullptr, args.partial = to_sums ? partial.data() : nullptr;
  }
  int64_t gaps() const { return row ? (column + rows) / row : 0; }
  int64_t channels() const { return width - kLanesOf<E> + args.last_lanes; }

  float sum(int64_t i, int64_t n) const {
    const int64_t lanes = kLanesOf<E>;
    float s = from_sums ? sums[i * width + n] : exact_float(bias[n]);
    for (int64_t k = 0; k < stride; ++k) {
      s += exact_float(a[i * stride + k]) * exact_float(b[n / lanes * block + k * lanes + n % lanes]);
    }
    return s;
  }

  double error() const {
    if (to_sums) {
      double largest = 0;
      for (int64_t i = 0; i < rows; ++i) {
        for (int64_t n = 0; n < channels(); ++n) {
          largest = std::fmax(largest, std::fabs(partial[i * width + n] - sum(i, n)));
        }
      }
      return largest;
    }
    std::vector<float> expected(c.size(), kSentinel);
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t n = 0; n < channels(); ++n) {
        const int64_t position = i * width + (row ? (column + i) / row * gap : 0) + n;
        expected[position] = std::fmin(50.0f, std::fmax(-40.0f, sum(i, n))) + exact_float(residual[i * width + n]);
      }
    }
    return worst(floats_of(c), expected);
  }
};

}  // namespace

template <class E>
Trial gemm_trial(GemmKernel<E> kernel, const GemmTrial& kind, Random& random, bool timing) {
  const auto call = std::make_shared<GemmCall<E>>(kind, random, timing);
  Trial trial;
  trial.run = [=] { kernel(call->args); };
  trial.flops = 2.0 * static_cast<double>(call->rows * call->channels() * call->stride);
  trial.bytes = static_cast<double>(sizeof(E) * (call->a.size() + call->b.size() + call->c.size()));
  trial.error = [=] { return call->error(); };
  return trial;
}

template <class E>
Trial outer_trial(OuterKernel<E> kernel, const OuterTrial& kind, Random& random, bool timing) {
  const int rows = kind.rows, blocks = kind.blocks;
  const bool by_lanes = kind.by_lanes;
  const int64_t lanes = kLanesOf<E>, runs = timing ? 4 : random.below(4), pixels = timing ? 56 : random.below(9);
  const int64_t last = timing ? lanes : 1 + random.below(kLanesOf<E>), channels = (blocks - 1) * lanes + last;
  const int64_t left = by_lanes ? last : rows, a_step = left + random.below(3), b_step = channels + random.below(3);
  const auto a = std::make_shared<std::vector<E>>(random.elements<E>(runs * pixels * a_step + left));
  const auto b = std::make_shared<std::vector<E>>(random.elements<E>(runs * pixels * b_step + channels));
  const int64_t out = blocks * std::max(1, rows) * lanes;
  const auto before = std::make_shared<std::vector<float>>(random.integers(out));
  const auto c = std::make_shared<std::vector<E>>(elements_of<E>(*before));
  const auto a_runs = std::make_shared<std::vector<int64_t>>(), b_runs = std::make_shared<std::vector<int64_t>>();
  for (int64_t r = 0; r < runs; ++r) a_runs->push_back(r * pixels * a_step), b_runs->push_back(r * pixels * b_step);
  const int64_t c_block = std::max(1, rows) * lanes;
  const OuterArgs<E> args{a->data(), a_step,    b->data(), b_step, a_runs->data(), b_runs->data(), runs,
                          pixels,    c->data(), c_block,   last};
  Trial trial;
  trial.run = [=] { (void)a, (void)b, (void)c, (void)a_runs, (void)b_runs, kernel(args); };
  trial.flops = 2.0 * static_cast<double>(runs * pixels * channels * std::max(1, rows));
  trial.bytes = static_cast<double>(sizeof(E) * (a->size() + b->size() + 2 * c->size()));
  trial.error = [=] {
    std::vector<float> expected = *before;
    for (int64_t n = 0; n < channels; ++n) {
      for (int64_t i = 0; i < std::max(1, rows); ++i) {
        float& sum = expected[n / lanes * c_block + i * lanes + n % lanes];
        const int64_t row = !by_lanes ? i : rows ? n / rows * rows + i : n;
        for (int64_t p = 0; p < runs * pixels && row < left; ++p) {
          sum += exact_float((*a)[p * a_step + row]) * exact_float((*b)[p * b_step + n]);
        }
      }
    }
    return worst(floats_of(*c), expected);
  };
  return trial;
}

template <class E>
Trial three_trial(OuterKernel<E> kernel, Random& random, bool timing) {
  const int64_t lanes = kLanesOf<E>, pixels = timing ? 56 : 1 + random.below(9), c_block = 8 * lanes;
  const auto a = std::make_shared<std::vector<E>>(random.elements<E>(pixels * lanes));
  const auto b = std::make_shared<std::vector<E>>(random.elements<E>((pixels + 2) * lanes));
  const auto before = std::make_shared<std::vector<float>>(random.integers(3 * c_block));
  const auto c = std::make_shared<std::vector<E>>(elements_of<E>(*before));
  static constexpr int64_t kStart[] = {0};
  const OuterArgs<E> args{a->data(), lanes, b->data(), lanes, kStart, kStart, 1, pixels, c->data(), c_block, lanes};
  Trial trial;
  trial.run = [=] { (void)a, (void)b, (void)c, kernel(args); };
  trial.flops = 2.0 * static_cast<double>(pixels * lanes * 24);
  trial.bytes = static_cast<double>(sizeof(E) * (a->size() + b->size() + 2 * c->size()));
  trial.error = [=] {
    std::vector<float> expected = *before;
    for (int64_t i = 0; i < 24 * lanes; ++i) {
      const int64_t column = i / c_block, row = i / lanes % 8, n = i % lanes;
      for (int64_t p = 0; p < pixels; ++p) {
        expected[i] += exact_float((*a)[p * lanes + n / 8 * 8 + row]) * exact_float((*b)[(p + 2 - column) * lanes + n]);
      }
    }
    return worst(floats_of(*c), expected);
  };
  return trial;
}

template <class E>
Trial spatial_trial(SpatialKernel<E> kernel, const SpatialTrial& kind, Random& random, bool timing) {
  constexpr int kLanes = kLanesOf<E>;
  const bool grouped = kind.grouped, any = kind.any;
  const int64_t tile = kind.tile, inputs = grouped ? 8 : 1;
  const int64_t size = any ? 1 + random.below(4) : kind.kernel, kw = any && !timing ? 1 + random.below(9) : size;
  const int64_t stride = any ? 1 + random.below(3) : kind.stride, dilation = any ? 1 + random.below(3) : 1;
  const bool blocked = timing || random.below(2) == 0;
  const int64_t runs = timing ? 4 : 1 + random.below(3);
  const int64_t lanes = blocked ? kLanes : 1 + random.below(kLanes),
                in_stride = kLanes + (blocked ? 0 : random.below(5));
  const int64_t columns = (tile - 1) * stride + (kw - 1) * dilation + 1,
                missing = timing ? -1 : random.below(int(size) + 1);
  auto in = std::make_shared<std::vector<E>>(random.elements<E>((size + runs - 1) * columns * in_stride));
  auto weights = std::make_shared<std::vector<E>>(random.elements<E>(size * kw * inputs * kLanes));
  auto bias = std::make_shared<std::vector<E>>(random.elements<E>(kLanes));
  auto out = std::make_shared<std::vector<E>>(
      elements_of<E>(std::vector<float>(static_cast<size_t>(runs * tile * kLanes), kSentinel)));
  auto rows = std::make_shared<std::vector<const E*>>();
  for (int64_t ky = 0; ky < size + runs - 1; ++ky) {
    rows->push_back(ky == missing ? nullptr : in->data() + ky * columns * in_stride);
  }
  SpatialArgs<E> s{};
  s.rows = rows->data(), s.runs = runs, s.rows_step = 1, s.out_row = tile * kLanes;
  s.in_stride = in_stride, s.weights = weights->data(), s.bias = bias->data();
  s.out = out->data(), s.out_stride = kLanes, s.lanes = lanes;
  s.kernel_h = size, s.kernel_w = kw, s.stride = stride, s.dilation = dilation, s.low = -30.0f, s.high = 90.0f;
  Trial trial;
  trial.run = [=] { (void)in, (void)weights, (void)bias, (void)out, (void)rows, kernel(s); };
  trial.flops = 2.0 * runs * tile * kLanes * size * kw * inputs;
  trial.bytes = static_cast<double>(sizeof(E)) * (runs * (size * columns + tile) * kLanes + weights->size());
  trial.error = [=] {
    std::vector<float> expected(out->size(), kSentinel);
    for (int64_t t = 0; t < runs * tile; ++t) {
      const int64_t run = t / tile;
      for (int64_t lane = 0; lane < lanes; ++lane) {
        float sum = exact_float((*bias)[lane]);
        for (int64_t ky = 0; ky < size; ++ky) {
          for (int64_t kx = 0; kx < kw && run + ky != missing; ++kx) {
            for (int64_t k = 0; k < inputs; ++k) {
              const int64_t channel = grouped ? lane / 8 * 8 + k : lane;
              const int64_t column = t % tile * stride + kx * dilation;
              sum += exact_float((*in)[((run + ky) * columns + column) * in_stride + channel]) *
                     exact_float((*weights)[((ky * kw + kx) * inputs + k) * kLanes + lane]);
            }
          }
        }
        expected[t * kLanes + lane] = std::fmin(90.0f, std::fmax(-30.0f, sum));
      }
    }
    return worst(floats_of(*out), expected);
  };
  return trial;
}

template Trial gemm_trial(GemmKernel<float>, const GemmTrial&, Random&, bool);
template Trial gemm_trial(GemmKernel<Half>, const GemmTrial&, Random&, bool);
template Trial outer_trial(OuterKernel<float>, const OuterTrial&, Random&, bool);
template Trial outer_trial(OuterKernel<Half>, const OuterTrial&, Random&, bool);
template Trial three_trial(OuterKernel<float>, Random&, bool);
template Trial three_trial(OuterKernel<Half>, Random&, bool);
template Trial spatial_trial(SpatialKernel<float>, const SpatialTrial&, Random&, bool);
template Trial spatial_trial(SpatialKernel<Half>, const SpatialTrial&, Random&, bool);

}  // namespace convfirst
