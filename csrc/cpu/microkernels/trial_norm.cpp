// Trials of the passes of batch norm in training.
#include <algorithm>
#include <cmath>
#include <memory>

#include "trial.h"

namespace convfirst {
namespace {

constexpr Activation kActivations[] = {Activation::kIdentity, Activation::kRelu,      Activation::kRelu6,
                                       Activation::kSilu,     Activation::kHardswish, Activation::kGelu,
                                       Activation::kGeluTanh};

double value_at(Activation activation, double z) {
  switch (activation) {
    case Activation::kRelu: return std::fmax(0.0, z);
    case Activation::kRelu6: return std::fmin(6.0, std::fmax(0.0, z));
    case Activation::kSilu: return z / (1.0 + std::exp(-z));
    case Activation::kHardswish: return z * std::fmin(1.0, std::fmax(0.0, z / 6.0 + 0.5));
    case Activation::kGelu: return 0.5 * z * std::erfc(-z / std::sqrt(2.0));
    case Activation::kGeluTanh: return 0.5 * z * (1.0 + std::tanh(std::sqrt(2.0 / M_PI) * (z + 0.044715 * z * z * z)));
    default: return z;
  }
}

double slope_at(Activation activation, double z) {
  const double s = 1.0 / (1.0 + std::exp(-z));
  switch (activation) {
    case Activation::kRelu: return z > 0.0 ? 1.0 : 0.0;
    case Activation::kRelu6: return z > 0.0 && z < 6.0 ? 1.0 : 0.0;
    case Activation::kSilu: return s * (1.0 + z * (1.0 - s));
    case Activation::kHardswish: return z <= -3.0 ? 0.0 : z >= 3.0 ? 1.0 : z / 3.0 + 0.5;
    case Activation::kGelu:
    case Activation::kGeluTanh: {
      constexpr double kStep = 1e-5;
      return (value_at(activation, z + kStep) - value_at(activation, z - kStep)) / (2.0 * kStep);
    }
    default: return 1.0;
  }
}

// What a call reads and writes; small integers, so that only the activations are rounded.
struct NormData {
  std::vector<float> x, other, out, scale, shift, gate, offset, mean, sums;
};

// What one pixel of one channel gives: its output, and what joins either sum.
struct Expected {
  double out, first, second;
};

Expected expected_of(NormPass pass, Activation activation, const NormData& d, const NormArgs<float>& n, int64_t p,
                     int64_t c) {
  const double x = d.x[p * n.x_stride + c], other = n.other ? d.other[p * n.other_stride + c] : 0.0;
  const double z = d.scale[c] * x + d.shift[c], gate = n.gate ? d.gate[c] : 1.0, centred = x - d.mean[c];
  switch (pass) {
    case NormPass::kApply: return {value_at(activation, z) * gate + other, 0.0, 0.0};
    case NormPass::kCombine: return {d.scale[c] * other + d.gate[c] * x + d.shift[c], 0.0, 0.0};
    case NormPass::kMoments: return {0.0, centred, centred * centred};
    case NormPass::kGateGrad: return {0.0, value_at(activation, z) * (n.other ? other : 1.0), 0.0};
    default: break;
  }
  const double grad = (other * gate + (n.offset ? d.offset[c] : 0.0)) * slope_at(activation, z);
  return {grad, grad, grad * centred};
}

// Slopes of GELU are off by up to 3e-6, and are multiplied by gradients of up to 20.
double error_of(double actual, double expected, double size, Activation activation) {
  const bool gelu = activation == Activation::kGelu || activation == Activation::kGeluTanh;
  const double difference = std::fabs(actual - expected);
  return difference <= (gelu ? 3e-6 * (20.0 + size) : 2e-6 * (1.0 + size)) ? 0.0 : difference;
}

double error_of(NormPass pass, const NormArgs<float>& n, const NormData& before, const NormData& after) {
  double error = 0.0;
  const bool writes = n.out && pass != NormPass::kMoments && pass != NormPass::kGateGrad;
  const bool sums = pass != NormPass::kApply && pass != NormPass::kCombine;
  for (int64_t c = 0; c < n.channels; ++c) {
    double first = before.sums[c], second = before.sums[n.sums_stride + c], size = 0.0;
    for (int64_t p = 0; p < n.pixels; ++p) {
      const Expected e = expected_of(pass, n.activation, before, n, p, c);
      if (writes)
        error = std::fmax(error, error_of(after.out[p * n.out_stride + c], e.out, std::fabs(e.out), n.activation));
      first += e.first, second += e.second, size += std::fabs(e.first) + std::fabs(e.second);
    }
    if (!sums) continue;
    error = std::fmax(error, error_of(after.sums[c], first, size, n.activation));
    if (pass != NormPass::kGateGrad) {
      error = std::fmax(error, error_of(after.sums[n.sums_stride + c], second, size, n.activation));
    }
  }
  for (int64_t p = 0; p < n.pixels; ++p) {
    for (int64_t c = n.channels; c < n.out_stride; ++c) {
      if (after.out[p * n.out_stride + c] != kSentinel) error = 1.0;
    }
  }
  return error;
}

}  // namespace

template <class E>
Trial norm_trial(const Kernels<E>& table, NormPass pass, Random& random, bool timing) {
  Trial trial;
  if constexpr (std::is_same_v<E, float>) {
    const int64_t pixels = timing ? 64 : 1 + random.below(11), channels = timing ? 96 : 1 + random.below(40);
    const int64_t stride = channels + (timing ? 0 : random.below(4)), padded = channels + 3;
    auto data = std::make_shared<NormData>();
    data->x = random.integers(pixels * stride), data->other = random.integers(pixels * stride);
    data->out.assign(static_cast<size_t>(pixels * stride), kSentinel);
    for (auto* values : {&data->scale, &data->shift, &data->gate, &data->offset, &data->mean}) {
      *values = random.integers(channels);
    }
    data->sums = random.integers(2 * padded);
    const auto before = std::make_shared<NormData>(*data);
    NormArgs<float> n{};
    n.x = data->x.data(), n.x_stride = stride, n.other_stride = stride;
    if (pass != NormPass::kApply || random.below(2)) n.other = data->other.data();
    if (pass == NormPass::kGateGrad && random.below(2)) n.other = nullptr;
    if (pass != NormPass::kActivationGrad || random.below(3)) n.out = data->out.data(), n.out_stride = stride;
    n.pixels = pixels, n.channels = channels;
    n.scale = data->scale.data(), n.shift = data->shift.data(), n.mean = data->mean.data();
    if (pass == NormPass::kCombine || random.below(2)) n.gate = data->gate.data();
    if (random.below(2)) n.offset = data->offset.data();
    n.sums = data->sums.data(), n.sums_stride = padded;
    n.activation = kActivations[timing ? 2 : random.below(7)];
    const NormKernel<float> kernel[] = {table.apply_norm, table.combine, table.activation_grad, table.gate_grad,
                                        table.moments};
    const NormKernel<float> run = kernel[static_cast<int>(pass)];
    trial.bytes = 12.0 * static_cast<double>(pixels * channels);
    trial.run = [=] { (void)data, run(n); };
    trial.error = [=] { return error_of(pass, n, *before, *data); };
  }
  return trial;
}

template Trial norm_trial(const Kernels<float>&, NormPass, Random&, bool);
template Trial norm_trial(const Kernels<Half>&, NormPass, Random&, bool);

}  // namespace convfirst
