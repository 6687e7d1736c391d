// Trials of the transforms of Winograd convolutions, against their matrices in float64.
#include <cmath>
#include <memory>

#include "trial.h"

namespace convfirst {
namespace {

// A row-major matrix.
struct Matrix {
  int rows, columns;
  std::vector<double> values;
  double at(int row, int column) const { return values[static_cast<size_t>(row * columns + column)]; }
};

Matrix input_matrix(int tile) {
  const double a = std::sqrt(0.5), b = std::sqrt(2.0);
  if (tile == 2) return {4, 4, {1, 0, -1, 0, 0, 1, 1, 0, 0, -1, 1, 0, 0, 1, 0, -1}};
  return {6, 6, {1, 0,  -2.5, 0, 1, 0, 0, -b, -2,   a,  1, 0, 0, b, -2, -a,   1, 0,
                 0, -a, -0.5, b, 1, 0, 0, a,  -0.5, -b, 1, 0, 0, 1, 0,  -2.5, 0, 1}};
}

Matrix output_matrix(int tile) {
  const double a = std::sqrt(0.5), b = std::sqrt(2.0);
  if (tile == 2) return {2, 4, {1, 1, 1, 0, 0, 1, -1, -1}};
  return {4, 6, {1, 1,   1,   1, 1, 0, 0, a,         -a,         b,         -b,         0,
                 0, 0.5, 0.5, 2, 2, 0, 0, a * a * a, -a * a * a, b * b * b, -b * b * b, 1}};
}

Matrix filter_matrix(int tile) {
  const double a = std::sqrt(0.5), b = std::sqrt(2.0);
  if (tile == 2) return {4, 3, {1, 0, 0, 0.5, 0.5, 0.5, 0.5, -0.5, 0.5, 0, 0, 1}};
  Matrix m{6, 3, {1, 0, 0, 1, a, a * a, 1, -a, a * a, 1, b, b * b, 1, -b, b * b, 0, 0, 1}};
  for (size_t i = 3; i < 9; ++i) m.values[i] /= -1.5;
  for (size_t i = 9; i < 15; ++i) m.values[i] /= 6.0;
  return m;
}

// (m x m^T)[row][column], and what its terms add up to without their signs.
struct Value {
  double value = 0, size = 0;
};
template <class At>
Value transformed(const Matrix& m, int row, int column, const At& at) {
  Value sum;
  for (int i = 0; i < m.columns; ++i) {
    for (int j = 0; j < m.columns; ++j) {
      const double term = m.at(row, i) * at(i * m.columns + j) * m.at(column, j);
      sum.value += term, sum.size += std::fabs(term);
    }
  }
  return sum;
}

double beyond_rounding(double actual, double expected, double size) {
  const double difference = std::fabs(actual - expected);
  return difference <= 1e-6 * (1.0 + size) ? 0.0 : difference;
}

double clamped(double value, double low, double high) { return std::fmin(high, std::fmax(low, value)); }

Trial input_trial(WinogradInputKernel<float> kernel, int tile, Random& random, bool timing) {
  struct Data {
    std::vector<float> image, out;
    std::vector<const float*> pixels;
  };
  const int positions = (tile + 2) * (tile + 2);
  const int64_t channels = timing ? 64 : 1 + random.below(40), stride = channels + (timing ? 0 : random.below(5));
  const int64_t padded = (channels + kLanes - 1) / kLanes * kLanes, step = padded + kLanes;
  auto data = std::make_shared<Data>();
  data->image = random.integers(positions * stride);
  data->out.assign(static_cast<size_t>(positions * step), kSentinel);
  for (int i = 0; i < positions; ++i) data->pixels.push_back(&data->image[static_cast<size_t>(i * stride)]);
  Trial trial;
  trial.bytes = 4.0 * static_cast<double>(positions * (channels + padded));
  trial.run = [=] { kernel({data->pixels.data(), channels, data->out.data(), step}); };
  trial.error = [=] {
    const Matrix m = input_matrix(tile);
    double error = 0;
    for (int position = 0; position < positions; ++position) {
      const float* out = &data->out[static_cast<size_t>(position * step)];
      for (int64_t c = 0; c < step; ++c) {
        if (c >= padded && out[c] != kSentinel) error = 1.0;
        if (c >= channels && c < padded && out[c] != 0.0f) error = 1.0;
        if (c >= channels) continue;
        const auto at = [&](int pixel) -> double { return data->pixels[static_cast<size_t>(pixel)][c]; };
        const Value expected = transformed(m, position / m.rows, position % m.rows, at);
        error = std::fmax(error, beyond_rounding(out[c], expected.value, expected.size));
      }
    }
    return error;
  };
  return trial;
}

Trial filter_trial(WinogradFilterKernel<float> kernel, int tile, Random& random) {
  struct Data {
    std::vector<float> kernels, out;
  };
  const int positions = (tile + 2) * (tile + 2);
  const int64_t step = kLanes * (1 + random.below(3));
  auto data = std::make_shared<Data>();
  data->kernels = random.integers(9 * kLanes);
  data->out.assign(static_cast<size_t>(positions * step), kSentinel);
  Trial trial;
  trial.bytes = 4.0 * kLanes * (9 + positions);
  trial.run = [=] { kernel({data->kernels.data(), data->out.data(), step}); };
  trial.error = [=] {
    const Matrix m = filter_matrix(tile);
    double error = 0;
    for (int position = 0; position < positions; ++position) {
      const float* out = &data->out[static_cast<size_t>(position * step)];
      for (int64_t c = 0; c < (position + 1 < positions ? step : kLanes); ++c) {
        if (c >= kLanes) {
          if (out[c] != kSentinel) error = 1.0;
          continue;
        }
        const auto at = [&](int element) -> double { return data->kernels[static_cast<size_t>(element * kLanes + c)]; };
        const Value expected = transformed(m, position / m.rows, position % m.rows, at);
        error = std::fmax(error, beyond_rounding(out[c], expected.value, expected.size));
      }
    }
    return error;
  };
  return trial;
}

struct OutputData {
  std::vector<float> sums, bias, residual, out;
};

double output_error(const WinogradOutputArgs<float>& w, const OutputData& data, int tile) {
  const Matrix m = output_matrix(tile);
  double error = 0;
  for (int row = 0; row < tile; ++row) {
    for (int column = 0; column < tile; ++column) {
      for (int64_t c = 0; c < w.pixel_step; ++c) {
        const auto index = static_cast<size_t>(row * w.row_step + column * w.pixel_step + c);
        if (row >= w.rows || column >= w.columns || c >= w.channels) {
          if (data.out[index] != kSentinel) error = 1.0;
          continue;
        }
        const auto at = [&](int position) -> double { return w.sums[position * w.position_step + c]; };
        const Value sum = transformed(m, row, column, at);
        double expected = clamped(sum.value + w.bias[c], w.low, w.high);
        if (w.residual) expected = clamped(expected + w.residual[index], w.sum_low, w.sum_high);
        error = std::fmax(error, beyond_rounding(data.out[index], expected, sum.size + 10.0));
      }
    }
  }
  return error;
}

Trial output_trial(WinogradOutputKernel<float> kernel, int tile, Random& random, bool timing) {
  const int positions = (tile + 2) * (tile + 2);
  auto data = std::make_shared<OutputData>();
  WinogradOutputArgs<float> w{};
  w.channels = kLanes * (timing ? 4 : 1 + random.below(3)), w.position_step = w.channels + kLanes;
  w.pixel_step = w.channels + (timing ? 0 : random.below(5)), w.row_step = tile * w.pixel_step;
  w.rows = timing ? tile : 1 + random.below(tile), w.columns = timing ? tile : 1 + random.below(tile);
  data->sums = random.integers(positions * w.position_step), data->bias = random.integers(w.channels);
  data->residual = random.integers(tile * w.row_step);
  data->out.assign(static_cast<size_t>(tile * w.row_step), kSentinel);
  w.sums = data->sums.data(), w.bias = data->bias.data(), w.out = data->out.data();
  w.low = random.below(2) ? 0.0f : -kInfinity, w.high = random.below(2) ? 6.0f : kInfinity;
  if (random.below(2)) w.residual = data->residual.data();
  if (random.below(2)) w.sum_low = 0.0f, w.sum_high = 6.0f;
  Trial trial;
  trial.bytes = 4.0 * static_cast<double>((positions + tile * tile) * w.channels);
  trial.run = [=] { (void)data, kernel(w); };
  trial.error = [=] { return output_error(w, *data, tile); };
  return trial;
}

}  // namespace

template <class E>
Trial winograd_trial(const Kernels<E>& table, const WinogradTrial& kind, Random& random, bool timing) {
  if constexpr (std::is_same_v<E, float>) {
    const int slot = kind.tile / 2 - 1;
    switch (kind.part) {
      case WinogradPart::kInput: return input_trial(table.winograd_input[slot], kind.tile, random, timing);
      case WinogradPart::kFilter: return filter_trial(table.winograd_filter[slot], kind.tile, random);
      case WinogradPart::kOutput: return output_trial(table.winograd_output[slot], kind.tile, random, timing);
    }
  }
  return {};
}

template Trial winograd_trial(const Kernels<float>&, const WinogradTrial&, Random&, bool);
template Trial winograd_trial(const Kernels<Half>&, const WinogradTrial&, Random&, bool);

}  // namespace convfirst
