// Which elements of a K x K kernel meet which pixels, known to the compiler.
//
// Forward, and the data gradient at stride 1, have one phase of K^2 taps. The data gradient at stride 2 falls into four
// phases: pixels (v, u) of the padded input with equal parities see the kernel elements of these parities, at
// grad[(v - r) / 2][(u - s) / 2], so each phase is a small convolution at stride 1.
#pragma once

#include "device/platform.cuh"

namespace convfirst::cuda {

struct Tap {
  int y, x;   // of the ring, from a pixel's own corner
  int index;  // r K + s
};

template <int kKernel, bool kPhases>
struct Taps {
  static constexpr int kCount = kPhases ? 4 : 1;  // phases
  static constexpr int kReach = (kKernel - 1) / 2;

  static __host__ __device__ constexpr int rows(int parity) { return kPhases ? (kKernel - parity + 1) / 2 : kKernel; }
  static __host__ __device__ constexpr int count(int phase) { return rows(phase / 2) * rows(phase % 2); }
  static __host__ __device__ constexpr int first(int phase) {
    return phase == 0 ? 0 : first(phase - 1) + count(phase - 1);
  }
  static __host__ __device__ constexpr Tap at(int phase, int i) {
    const int columns = rows(phase % 2), y = i / columns, x = i % columns;
    if (!kPhases) return {y, x, y * kKernel + x};
    return {kReach - y, kReach - x, (2 * y + phase / 2) * kKernel + 2 * x + phase % 2};
  }
};

}  // namespace convfirst::cuda
