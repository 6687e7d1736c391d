// Trials of the kernels that pass over a tile once: storage conversions, activations, squeeze sum and gate.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>

#include "trial.h"

namespace convfirst {
namespace {

// Small integers are exact in every storage type, so bytes are made by hand here.
std::vector<uint8_t> stored(const std::vector<float>& values, Storage storage) {
  const size_t size = storage == Storage::kFloat32 ? 4 : 2;
  std::vector<uint8_t> bytes(values.size() * size);
  for (size_t i = 0; i < values.size(); ++i) {
    uint32_t bits;
    std::memcpy(&bits, &values[i], 4);
    if (storage == Storage::kFloat32) {
      std::memcpy(&bytes[4 * i], &bits, 4);
    } else {
      const uint32_t sign = (bits >> 16) & 0x8000u, rest = bits & 0x7fffffffu;
      const uint16_t half = static_cast<uint16_t>(
          storage == Storage::kBFloat16 ? bits >> 16 : sign | (rest ? (rest - 0x38000000u) >> 13 : 0u));
      std::memcpy(&bytes[2 * i], &half, 2);
    }
  }
  return bytes;
}

double reference(Activation activation, double x) {
  switch (activation) {
    case Activation::kRelu: return std::fmax(0.0, x);
    case Activation::kRelu6: return std::fmin(6.0, std::fmax(0.0, x));
    case Activation::kSilu: return x / (1.0 + std::exp(-x));
    case Activation::kHardswish: return x * std::fmin(1.0, std::fmax(0.0, x / 6.0 + 0.5));
    case Activation::kGelu: return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
    case Activation::kGeluTanh: return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::kSigmoid: return 1.0 / (1.0 + std::exp(-x));
    case Activation::kHardsigmoid: return std::fmin(1.0, std::fmax(0.0, x / 6.0 + 0.5));
    default: return x;
  }
}

// Activations are rounded: 0 where every value is within 5e-7, relative above one and absolute below.
double activation_error(const KernelTable& table) {
  double largest = 0;
  for (int a = 0; a <= static_cast<int>(Activation::kHardsigmoid); ++a) {
    std::vector<float> x(4096);
    for (size_t i = 0; i < x.size(); ++i)
      x[i] = -110.0f + 220.0f * static_cast<float>(i) / static_cast<float>(x.size());
    for (size_t i = 0; i < x.size() / 2; ++i) x[i] *= 0.1f;
    std::vector<float> y = x;
    table.activate(y.data(), static_cast<int64_t>(y.size()) / kLanes, static_cast<Activation>(a));
    for (size_t i = 0; i < x.size(); ++i) {
      const double expected = reference(static_cast<Activation>(a), x[i]);
      const double error = std::fabs(y[i] - expected) / std::fmax(1.0, std::fabs(expected));
      if (!(error <= largest)) largest = error;
    }
  }
  return largest <= 5e-7 ? 0.0 : largest;
}

}  // namespace

Trial storage_trial(const KernelTable& table, Pass pass, Storage storage, Random& random, bool timing) {
  const int slot = static_cast<int>(storage);
  const int64_t pixels = timing ? 56 : 1 + random.below(7), lanes = timing ? kLanes : 1 + random.below(kLanes);
  const int64_t stride = lanes + (timing ? 0 : random.below(4)), count = pixels * stride;
  auto values = std::make_shared<std::vector<float>>(random.integers(count));
  auto bytes = std::make_shared<std::vector<uint8_t>>(stored(*values, storage));
  Trial trial;
  trial.bytes = 4.0 * pixels * kLanes + static_cast<double>(bytes->size());
  if (pass == Pass::kFinish) {
    const std::vector<float> floats = random.integers(pixels * kLanes);
    auto in = std::make_shared<std::vector<float>>(floats);
    auto residual = bytes;
    auto out =
        std::make_shared<std::vector<uint8_t>>(stored(std::vector<float>(static_cast<size_t>(count), 3.0f), storage));
    FinishArgs f{};
    f.in = in->data(), f.in_stride = kLanes, f.in_block = 0, f.out = out->data(), f.out_stride = stride;
    f.residual = residual->data(), f.residual_stride = stride;
    f.pixels = pixels, f.channels = lanes, f.activation = Activation::kRelu;
    const FinishKernel kernel = table.finish[slot];
    trial.run = [=] { (void)in, (void)residual, (void)out, kernel(f); };
    trial.error = [=] {
      std::vector<float> expected(static_cast<size_t>(count), 3.0f);
      for (int64_t p = 0; p < pixels; ++p) {
        for (int64_t lane = 0; lane < lanes; ++lane) {
          expected[p * stride + lane] = std::fmax(0.0f, (*in)[p * kLanes + lane]) + (*values)[p * stride + lane];
        }
      }
      return stored(expected, storage) == *out ? 0.0 : 1.0;
    };
    return trial;
  }
  const bool gathers = pass == Pass::kGather;
  auto out = std::make_shared<std::vector<float>>(static_cast<size_t>(gathers ? pixels * kLanes : count), kSentinel);
  const GatherArgs g{bytes->data(), stride, out->data(), pixels, lanes};
  const GatherKernel gather = table.gather[slot];
  const WidenKernel widen = table.widen[slot];
  trial.run = [=] {
    (void)bytes;
    gathers ? gather(g) : widen(bytes->data(), out->data(), count);
  };
  trial.error = [=] {
    if (!gathers) return worst(*out, *values);
    std::vector<float> expected(out->size(), 0.0f);
    for (int64_t p = 0; p < pixels; ++p) {
      for (int64_t lane = 0; lane < lanes; ++lane) expected[p * kLanes + lane] = (*values)[p * stride + lane];
    }
    return worst(*out, expected);
  };
  return trial;
}

// Compares in units of the rounding error that sums of this length may have.
Trial normalize_trial(const KernelTable& table, Random& random, bool timing) {
  const int64_t channels = timing ? 384 : 1 + random.below(40), pixels = timing ? 28 : 1 + random.below(4);
  const int64_t stride = channels + (timing ? 0 : random.below(3));
  const int64_t padded = (channels + kLanes - 1) / kLanes * kLanes;
  auto values = std::make_shared<std::vector<float>>(random.integers(pixels * stride));
  auto before = std::make_shared<std::vector<float>>(*values);
  auto weight = std::make_shared<std::vector<float>>(random.integers(padded));
  auto bias = std::make_shared<std::vector<float>>(random.integers(padded));
  const bool affine = random.below(2) == 1;
  const NormalizeArgs args{values->data(), stride, pixels, channels, 1e-5f, affine ? weight->data() : nullptr,
                           bias->data()};
  const NormalizeKernel normalize = table.normalize;
  Trial trial;
  trial.bytes = 8.0 * static_cast<double>(pixels * channels);
  trial.run = [=] {
    (void)weight;
    normalize(args);
  };
  trial.error = [=] {
    double error = 0.0;
    for (int64_t p = 0; p < pixels; ++p) {
      const float* x = before->data() + p * stride;
      double mean = 0.0, variance = 0.0;
      for (int64_t c = 0; c < channels; ++c) mean += x[c] / static_cast<double>(channels);
      for (int64_t c = 0; c < channels; ++c) variance += (x[c] - mean) * (x[c] - mean) / static_cast<double>(channels);
      for (int64_t c = 0; c < stride; ++c) {
        double expected = x[c];
        if (c < channels) expected = (x[c] - mean) / std::sqrt(variance + 1e-5);
        if (c < channels && affine) expected = expected * (*weight)[c] + (*bias)[c];
        const double difference = std::fabs((*values)[p * stride + c] - expected);
        if (!(difference <= 1e-5 * (1.0 + std::fabs(expected)))) error = std::fmax(error, 1.0 + difference);
      }
    }
    return error;
  };
  return trial;
}

Trial plain_trial(const KernelTable& table, Pass pass, Random& random, bool timing) {
  if (pass == Pass::kNormalize) return normalize_trial(table, random, timing);
  const int64_t pixels = timing ? 56 : 1 + random.below(9);
  auto values = std::make_shared<std::vector<float>>(random.integers(pixels * kLanes));
  auto before = std::make_shared<std::vector<float>>(*values);
  auto lanes = std::make_shared<std::vector<float>>(random.integers(std::max<int64_t>(kLanes, pixels)));
  auto lanes_before = std::make_shared<std::vector<float>>(*lanes);
  const KernelTable* t = &table;
  Trial trial;
  trial.bytes = 8.0 * pixels * kLanes;
  trial.run = [=] {
    if (pass == Pass::kActivate) t->activate(values->data(), pixels, Activation::kRelu6);
    if (pass == Pass::kSum) t->sum(values->data(), pixels, lanes->data());
    if (pass == Pass::kRescale) t->rescale(before->data(), pixels, lanes->data(), values->data());
    if (pass == Pass::kScale) t->scale(values->data(), pixels, lanes->data());
  };
  trial.error = [=] {
    std::vector<float> expected = *before, totals = *lanes_before;
    for (int64_t i = 0; i < pixels * kLanes; ++i) {
      const int64_t lane = i % kLanes;
      if (pass == Pass::kActivate) expected[i] = std::fmin(6.0f, std::fmax(0.0f, expected[i]));
      if (pass == Pass::kSum) totals[lane] += expected[i];
      if (pass == Pass::kRescale) expected[i] *= (*lanes_before)[i / kLanes];
      if (pass == Pass::kScale) expected[i] *= (*lanes_before)[lane];
    }
    const double error = std::fmax(worst(*values, expected), worst(*lanes, totals));
    return pass == Pass::kActivate ? std::fmax(error, activation_error(*t)) : error;
  };
  return trial;
}

}  // namespace convfirst
