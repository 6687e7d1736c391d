// Trials of the kernels that multiply: matrix products, depthwise and group-width-8 runs.
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

Trial gemm_trial(GemmKernel kernel, const GemmTrial& kind, Random& random, bool timing) {
  const int64_t rows = kind.rows, blocks = kind.blocks, taps = timing ? 1 : 2,
                depth = timing ? 96 : 1 + random.below(23);
  const int64_t stride = depth * taps, last = timing ? kind.most_lanes : 1 + random.below(kind.most_lanes);
  const int64_t width = blocks * kLanes, block = taps * depth * kLanes;
  const int64_t row = timing ? 0 : random.below(10), column = row ? random.below(static_cast<int>(row)) : 0;
  const int64_t gap = 3, gaps = row ? (column + rows) / row : 0;
  auto a = std::make_shared<std::vector<float>>(random.integers(rows * stride));
  auto b = std::make_shared<std::vector<float>>(random.integers(blocks * block));
  auto bias = std::make_shared<std::vector<float>>(random.integers(width));
  auto residual = std::make_shared<std::vector<float>>(random.integers(rows * width));
  auto c = std::make_shared<std::vector<float>>(static_cast<size_t>(rows * width + gaps * gap), kSentinel);
  auto offsets = std::make_shared<std::vector<int64_t>>();
  for (int64_t t = 0; t < taps; ++t) offsets->push_back(t * depth);
  GemmArgs g{};
  g.a = a->data(), g.a_stride = stride, g.taps = offsets->data(), g.tap_count = taps, g.depth = depth;
  g.b = b->data(), g.b_block = block, g.init = bias->data(), g.init_block = kLanes;
  g.c = c->data(), g.c_stride = width, g.c_block = kLanes;
  g.c_row = row, g.c_column = column, g.c_gap = gap;
  g.residual = timing ? nullptr : residual->data(), g.residual_stride = width;
  g.low = -40.0f, g.high = 50.0f, g.last_lanes = last;
  Trial trial;
  trial.run = [=] { (void)offsets, (void)a, (void)b, (void)bias, (void)residual, (void)c, kernel(g); };
  trial.flops = 2.0 * rows * (width - kLanes + kind.most_lanes) * taps * depth;
  trial.bytes = 4.0 * (rows * stride + blocks * block + rows * width);
  trial.error = [=] {
    std::vector<float> expected(c->size(), kSentinel);
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t n = 0; n < width - kLanes + last; ++n) {
        float s = (*bias)[n];
        for (int64_t k = 0; k < taps * depth; ++k) {
          s += (*a)[i * stride + k] * (*b)[n / kLanes * block + k * kLanes + n % kLanes];
        }
        const int64_t position = i * width + (row ? (column + i) / row * gap : 0) + n;
        expected[position] = std::fmin(50.0f, std::fmax(-40.0f, s)) + (*residual)[i * width + n];
      }
    }
    return worst(*c, expected);
  };
  return trial;
}

Trial spatial_trial(SpatialKernel kernel, const SpatialTrial& kind, Random& random, bool timing) {
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
  auto in = std::make_shared<std::vector<float>>(random.integers((size + runs - 1) * columns * in_stride));
  auto weights = std::make_shared<std::vector<float>>(random.integers(size * kw * inputs * kLanes));
  auto bias = std::make_shared<std::vector<float>>(random.integers(kLanes));
  auto out = std::make_shared<std::vector<float>>(static_cast<size_t>(runs * tile * kLanes), kSentinel);
  auto rows = std::make_shared<std::vector<const float*>>();
  for (int64_t ky = 0; ky < size + runs - 1; ++ky) {
    rows->push_back(ky == missing ? nullptr : in->data() + ky * columns * in_stride);
  }
  SpatialArgs s{};
  s.rows = rows->data(), s.runs = runs, s.rows_step = 1, s.out_row = tile * kLanes;
  s.in_stride = in_stride, s.weights = weights->data(), s.bias = bias->data();
  s.out = out->data(), s.out_stride = kLanes, s.lanes = lanes;
  s.kernel_h = size, s.kernel_w = kw, s.stride = stride, s.dilation = dilation, s.low = -30.0f, s.high = 90.0f;
  Trial trial;
  trial.run = [=] { (void)in, (void)weights, (void)bias, (void)out, (void)rows, kernel(s); };
  trial.flops = 2.0 * runs * tile * kLanes * size * kw * inputs;
  trial.bytes = 4.0 * runs * (size * columns + tile) * kLanes + 4.0 * weights->size();
  trial.error = [=] {
    std::vector<float> expected(out->size(), kSentinel);
    for (int64_t t = 0; t < runs * tile; ++t) {
      const int64_t run = t / tile;
      for (int64_t lane = 0; lane < lanes; ++lane) {
        float sum = (*bias)[lane];
        for (int64_t ky = 0; ky < size; ++ky) {
          for (int64_t kx = 0; kx < kw && run + ky != missing; ++kx) {
            for (int64_t k = 0; k < inputs; ++k) {
              const int64_t channel = grouped ? lane / 8 * 8 + k : lane;
              const int64_t column = t % tile * stride + kx * dilation;
              sum += (*in)[((run + ky) * columns + column) * in_stride + channel] *
                     (*weights)[((ky * kw + kx) * inputs + k) * kLanes + lane];
            }
          }
        }
        expected[t * kLanes + lane] = std::fmin(90.0f, std::fmax(-30.0f, sum));
      }
    }
    return worst(*out, expected);
  };
  return trial;
}

}  // namespace convfirst
