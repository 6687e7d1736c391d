// Trials of the kernels that pass over a tile once: storage conversions, activations, squeeze sum and gate.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>

#include "trial.h"

namespace convfirst {
namespace {

template <class E>
std::vector<uint8_t> bytes_of(const std::vector<float>& values) {
  const std::vector<E> elements = elements_of<E>(values);
  std::vector<uint8_t> bytes(elements.size() * sizeof(E));
  if (!bytes.empty()) std::memcpy(bytes.data(), elements.data(), bytes.size());
  return bytes;
}

// Small integers are exact in every storage type.
std::vector<uint8_t> stored(const std::vector<float>& values, Storage storage) {
  if (storage == Storage::kFloat32) return bytes_of<float>(values);
  if (storage == Storage::kFloat16) return bytes_of<Half>(values);
  std::vector<uint8_t> bytes(values.size() * 2);
  for (size_t i = 0; i < values.size(); ++i)
    std::memcpy(&bytes[2 * i], reinterpret_cast<const char*>(&values[i]) + 2, 2);
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

// Any value, widened by the portable kernels.
std::vector<float> values_of(const std::vector<float>& elements) { return elements; }
std::vector<float> values_of(const std::vector<Half>& elements) {
  std::vector<float> values(elements.size());
  const WidenKernel<float> widen = portable_kernels()->fp32.widen[static_cast<int>(Storage::kFloat16)];
  widen(elements.data(), values.data(), static_cast<int64_t>(values.size()));
  return values;
}

// Activations are rounded: 0 where every value is within 5e-7, and in fp16 a rounding more, relative above one and
// absolute below.
template <class E>
double activation_error(const Kernels<E>& table) {
  const double allowed = 5e-7 + (std::is_same_v<E, Half> ? 0x1p-11 : 0.0);
  double largest = 0;
  for (int a = 0; a <= static_cast<int>(Activation::kHardsigmoid); ++a) {
    std::vector<float> x(4096);
    for (size_t i = 0; i < x.size(); ++i)
      x[i] = -110.0f + 220.0f * static_cast<float>(i) / static_cast<float>(x.size());
    for (size_t i = 0; i < x.size() / 2; ++i) x[i] *= 0.1f;
    if constexpr (std::is_same_v<E, Half>) {
      for (float& value : x) value = std::floor(value * 8.0f) / 8.0f;  // exact in fp16
    }
    std::vector<E> elements = elements_of<E>(x);
    table.activate(elements.data(), static_cast<int64_t>(x.size()) / kLanesOf<E>, static_cast<Activation>(a));
    const std::vector<float> y = values_of(elements);
    for (size_t i = 0; i < x.size(); ++i) {
      const double expected = reference(static_cast<Activation>(a), x[i]);
      const double error = std::fabs(y[i] - expected) / std::fmax(1.0, std::fabs(expected));
      if (!(error <= largest)) largest = error;
    }
  }
  return largest <= allowed ? 0.0 : largest;
}

}  // namespace

template <class E>
Trial storage_trial(const Kernels<E>& table, Pass pass, Storage storage, Random& random, bool timing) {
  constexpr int kLanes = kLanesOf<E>;
  const int slot = static_cast<int>(storage);
  const int64_t pixels = timing ? 56 : 1 + random.below(7), lanes = timing ? kLanes : 1 + random.below(kLanes);
  const int64_t stride = lanes + (timing ? 0 : random.below(4)), count = pixels * stride;
  auto values = std::make_shared<std::vector<float>>(random.integers(count));
  auto bytes = std::make_shared<std::vector<uint8_t>>(stored(*values, storage));
  Trial trial;
  trial.bytes = static_cast<double>(sizeof(E)) * pixels * kLanes + static_cast<double>(bytes->size());
  if (pass == Pass::kFinish) {
    auto in = std::make_shared<std::vector<E>>(random.elements<E>(pixels * kLanes));
    auto residual = bytes;
    auto out =
        std::make_shared<std::vector<uint8_t>>(stored(std::vector<float>(static_cast<size_t>(count), 3.0f), storage));
    FinishArgs<E> f{};
    f.in = in->data(), f.in_stride = kLanes, f.in_block = 0, f.out = out->data(), f.out_stride = stride;
    f.residual = residual->data(), f.residual_stride = stride;
    f.pixels = pixels, f.channels = lanes, f.activation = Activation::kRelu;
    const FinishKernel<E> kernel = table.finish[slot];
    trial.run = [=] { (void)in, (void)residual, (void)out, kernel(f); };
    trial.error = [=] {
      std::vector<float> expected(static_cast<size_t>(count), 3.0f);
      for (int64_t p = 0; p < pixels; ++p) {
        for (int64_t lane = 0; lane < lanes; ++lane) {
          expected[p * stride + lane] =
              std::fmax(0.0f, exact_float((*in)[p * kLanes + lane])) + (*values)[p * stride + lane];
        }
      }
      return stored(expected, storage) == *out ? 0.0 : 1.0;
    };
    return trial;
  }
  const bool gathers = pass == Pass::kGather;
  auto out = std::make_shared<std::vector<E>>(
      elements_of<E>(std::vector<float>(static_cast<size_t>(gathers ? pixels * kLanes : count), kSentinel)));
  const GatherArgs<E> g{bytes->data(), stride, out->data(), pixels, lanes};
  const GatherKernel<E> gather = table.gather[slot];
  const WidenKernel<E> widen = table.widen[slot];
  trial.run = [=] {
    (void)bytes;
    gathers ? gather(g) : widen(bytes->data(), out->data(), count);
  };
  trial.error = [=] {
    if (!gathers) return worst(floats_of(*out), *values);
    std::vector<float> expected(out->size(), 0.0f);
    for (int64_t p = 0; p < pixels; ++p) {
      for (int64_t lane = 0; lane < lanes; ++lane) expected[p * kLanes + lane] = (*values)[p * stride + lane];
    }
    return worst(floats_of(*out), expected);
  };
  return trial;
}

// Compares in units of the rounding error that sums of this length, and a result in E, may have.
template <class E>
Trial normalize_trial(const Kernels<E>& table, Random& random, bool timing) {
  constexpr int kLanes = kLanesOf<E>;
  constexpr double kAllowed = std::is_same_v<E, Half> ? 2e-3 : 1e-5;
  const int64_t channels = timing ? 384 : 1 + random.below(40), pixels = timing ? 28 : 1 + random.below(4);
  const int64_t stride = channels + (timing ? 0 : random.below(3));
  const int64_t padded = (channels + kLanes - 1) / kLanes * kLanes;
  auto before = std::make_shared<std::vector<float>>(random.integers(pixels * stride));
  auto values = std::make_shared<std::vector<E>>(elements_of<E>(*before));
  auto weight = std::make_shared<std::vector<E>>(random.elements<E>(padded));
  auto bias = std::make_shared<std::vector<E>>(random.elements<E>(padded));
  const bool affine = random.below(2) == 1;
  const NormalizeArgs<E> args{values->data(), stride, pixels, channels, 1e-5f, affine ? weight->data() : nullptr,
                              bias->data()};
  const NormalizeKernel<E> normalize = table.normalize;
  Trial trial;
  trial.bytes = 2.0 * sizeof(E) * static_cast<double>(pixels * channels);
  trial.run = [=] {
    (void)weight;
    normalize(args);
  };
  trial.error = [=] {
    double error = 0.0;
    const std::vector<float> actual = values_of(*values);
    for (int64_t p = 0; p < pixels; ++p) {
      const float* x = before->data() + p * stride;
      double mean = 0.0, variance = 0.0;
      for (int64_t c = 0; c < channels; ++c) mean += x[c] / static_cast<double>(channels);
      for (int64_t c = 0; c < channels; ++c) variance += (x[c] - mean) * (x[c] - mean) / static_cast<double>(channels);
      for (int64_t c = 0; c < stride; ++c) {
        double expected = x[c];
        if (c < channels) expected = (x[c] - mean) / std::sqrt(variance + 1e-5);
        if (c < channels && affine) expected = expected * exact_float((*weight)[c]) + exact_float((*bias)[c]);
        const double difference = std::fabs(actual[p * stride + c] - expected);
        if (!(difference <= kAllowed * (1.0 + std::fabs(expected)))) error = std::fmax(error, 1.0 + difference);
      }
    }
    return error;
  };
  return trial;
}

template <class E>
Trial interleave_trial(const Kernels<E>& table, Random& random, bool timing) {
  const int64_t planes = timing ? 3 : 1 + random.below(4), pixels = timing ? 224 : 1 + random.below(70);
  const int64_t plane = pixels + (timing ? 0 : random.below(3)), stride = planes + (timing ? 0 : random.below(2));
  const auto in = std::make_shared<std::vector<E>>(random.elements<E>(planes * plane));
  const auto out = std::make_shared<std::vector<E>>(
      elements_of<E>(std::vector<float>(static_cast<size_t>(pixels * stride), kSentinel)));
  const InterleaveArgs<E> args{in->data(), plane, planes, out->data(), stride, pixels};
  const InterleaveKernel<E> interleave = table.interleave;
  Trial trial;
  trial.bytes = 2.0 * sizeof(E) * static_cast<double>(planes * pixels);
  trial.run = [=] {
    (void)in, (void)out;
    interleave(args);
  };
  trial.error = [=] {
    std::vector<float> expected(out->size(), kSentinel);
    for (int64_t p = 0; p < pixels; ++p) {
      for (int64_t c = 0; c < planes; ++c) expected[p * stride + c] = exact_float((*in)[c * plane + p]);
    }
    return worst(floats_of(*out), expected);
  };
  return trial;
}

template <class E>
Trial plain_trial(const Kernels<E>& table, Pass pass, Random& random, bool timing) {
  if (pass == Pass::kNormalize) return normalize_trial(table, random, timing);
  if (pass == Pass::kInterleave) return interleave_trial(table, random, timing);
  constexpr int kLanes = kLanesOf<E>;
  const int64_t pixels = timing ? 56 : 1 + random.below(9);
  const auto before = std::make_shared<std::vector<float>>(random.integers(pixels * kLanes));
  const auto in = std::make_shared<std::vector<E>>(elements_of<E>(*before));
  const auto values = std::make_shared<std::vector<E>>(*in);
  const auto factors = std::make_shared<std::vector<float>>(random.integers(std::max<int64_t>(kLanes, pixels)));
  const auto factor_elements = std::make_shared<std::vector<E>>(elements_of<E>(*factors));
  const auto totals = std::make_shared<std::vector<float>>(*factors);
  const Kernels<E>* t = &table;
  Trial trial;
  trial.bytes = 2.0 * sizeof(E) * static_cast<double>(pixels * kLanes);
  trial.run = [=] {
    if (pass == Pass::kActivate) t->activate(values->data(), pixels, Activation::kRelu6);
    if (pass == Pass::kSum) t->sum(values->data(), pixels, totals->data());
    if (pass == Pass::kRescale) t->rescale(in->data(), pixels, factor_elements->data(), values->data());
    if (pass == Pass::kScale) t->scale(values->data(), pixels, factor_elements->data());
  };
  trial.error = [=] {
    std::vector<float> expected = *before, expected_totals = *factors;
    for (int64_t i = 0; i < pixels * kLanes; ++i) {
      const int64_t lane = i % kLanes;
      if (pass == Pass::kActivate) expected[i] = std::fmin(6.0f, std::fmax(0.0f, expected[i]));
      if (pass == Pass::kSum) expected_totals[lane] += expected[i];
      if (pass == Pass::kRescale) expected[i] *= (*factors)[i / kLanes];
      if (pass == Pass::kScale) expected[i] *= (*factors)[lane];
    }
    const double error = std::fmax(worst(floats_of(*values), expected), worst(*totals, expected_totals));
    return pass == Pass::kActivate ? std::fmax(error, activation_error(*t)) : error;
  };
  return trial;
}

template Trial storage_trial(const Kernels<float>&, Pass, Storage, Random&, bool);
template Trial storage_trial(const Kernels<Half>&, Pass, Storage, Random&, bool);
template Trial plain_trial(const Kernels<float>&, Pass, Random&, bool);
template Trial plain_trial(const Kernels<Half>&, Pass, Random&, bool);

}  // namespace convfirst
