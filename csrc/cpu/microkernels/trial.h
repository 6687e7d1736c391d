// A prepared call of one microkernel on random data, and its scalar reference.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>
#include <vector>

#include "isa.h"

namespace convfirst {

// fp16 of values that it holds exactly and that are not subnormal.
inline Half exact_half(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t rest = bits & 0x7fffffffu;
  return {static_cast<uint16_t>((bits >> 16 & 0x8000u) | (rest ? (rest - 0x38000000u) >> 13 : 0u))};
}
inline float exact_float(float value) { return value; }
inline float exact_float(Half value) {
  const uint32_t rest = value.bits & 0x7fffu;
  const uint32_t bits = static_cast<uint32_t>(value.bits & 0x8000u) << 16 | (rest ? (rest << 13) + 0x38000000u : 0u);
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

template <class E>
std::vector<E> elements_of(const std::vector<float>& values) {
  std::vector<E> elements(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    if constexpr (std::is_same_v<E, Half>) {
      elements[i] = exact_half(values[i]);
    } else {
      elements[i] = values[i];
    }
  }
  return elements;
}
template <class E>
std::vector<float> floats_of(const std::vector<E>& elements) {
  std::vector<float> values;
  for (const E& e : elements) values.push_back(exact_float(e));
  return values;
}

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 2654435761u + 88172645463325252u) {}
  int below(int n) {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return static_cast<int>(state_ % static_cast<uint64_t>(n));
  }
  std::vector<float> integers(int64_t count) {
    std::vector<float> v(static_cast<size_t>(count));
    for (float& x : v) x = static_cast<float>(below(9) - 4);
    return v;
  }
  template <class E>
  std::vector<E> elements(int64_t count) {
    return elements_of<E>(integers(count));
  }

 private:
  uint64_t state_;
};

// run() executes the kernel; error() compares its output with the scalar reference, 0 being exact.
struct Trial {
  std::function<void()> run;
  std::function<double()> error;
  double flops = 0, bytes = 0;
};

// Largest absolute difference; NaN where anything is NaN.
double worst(const std::vector<float>& actual, const std::vector<float>& expected);

constexpr float kSentinel = 77.0f;  // stands where a kernel must not write

struct SpatialTrial {
  int kernel, stride, tile;
  bool grouped, any;  // any: random kernel, stride and dilation
};

struct GemmTrial {
  int rows, blocks, most_lanes;  // of the last block
};

// timing: a fixed, full-sized call; otherwise random sizes with tails.
template <class E>
Trial gemm_trial(GemmKernel<E> kernel, const GemmTrial& kind, Random& random, bool timing);
template <class E>
Trial spatial_trial(SpatialKernel<E> kernel, const SpatialTrial& kind, Random& random, bool timing);

struct OuterTrial {
  int rows, blocks;
  bool by_lanes;  // lanes meet lanes (no rows) or those of their group (as many as rows)
};
template <class E>
Trial outer_trial(OuterKernel<E> kernel, const OuterTrial& kind, Random& random, bool timing);
template <class E>
Trial three_trial(OuterKernel<E> kernel, Random& random, bool timing);

enum class Pass { kGather, kFinish, kWiden, kActivate, kSum, kScale, kNormalize, kRescale, kInterleave, kBlur };
template <class E>
Trial storage_trial(const Kernels<E>& table, Pass pass, Storage storage, Random& random, bool timing);
template <class E>
Trial plain_trial(const Kernels<E>& table, Pass pass, Random& random, bool timing);

enum class WinogradPart { kInput, kFilter, kOutput };
struct WinogradTrial {
  int tile;
  WinogradPart part;
};
template <class E>
Trial winograd_trial(const Kernels<E>& table, const WinogradTrial& kind, Random& random, bool timing);

enum class NormPass { kApply, kCombine, kActivationGrad, kGateGrad, kMoments };
template <class E>
Trial norm_trial(const Kernels<E>& table, NormPass pass, Random& random, bool timing);

}  // namespace convfirst
