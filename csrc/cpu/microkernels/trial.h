// A prepared call of one microkernel on random data, and its scalar reference.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "isa.h"

namespace convfirst {

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
Trial gemm_trial(GemmKernel kernel, const GemmTrial& kind, Random& random, bool timing);
Trial spatial_trial(SpatialKernel kernel, const SpatialTrial& kind, Random& random, bool timing);

enum class Pass { kGather, kFinish, kWiden, kActivate, kSum, kScale, kNormalize, kRescale };
Trial storage_trial(const KernelTable& table, Pass pass, Storage storage, Random& random, bool timing);
Trial normalize_trial(const KernelTable& table, Random& random, bool timing);
Trial plain_trial(const KernelTable& table, Pass pass, Random& random, bool timing);

}  // namespace convfirst
