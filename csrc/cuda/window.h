// What every convolution's launcher takes: its window, the storage of its images, and weights in either layout.
#pragma once

#include "device/numeric.cuh"

namespace convfirst::cuda {

enum class Storage : int { kFloat32, kBFloat16, kFloat16 };

struct Window {
  int kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, top, left;
  __host__ __device__ int taps() const { return kernel_h * kernel_w; }
  bool is_square(int kernel, int stride) const {
    return kernel_h == kernel && kernel_w == kernel && stride_h == stride && stride_w == stride && dilation_h == 1 &&
           dilation_w == 1;
  }
};

// Element (o, i, tap) of a weight: torch's (O, I, R, S) in the images' storage, or pack_weight's [O / 16][R][S][I][16]
// in fp32.
struct Weights {
  Buffer data;
  bool packed;
  int group_in, taps;

  __host__ __device__ int64_t index(int o, int i, int tap) const {
    const int64_t block = o / 16, lane = o % 16;
    return packed ? ((block * taps + tap) * group_in + i) * 16 + lane
                  : (static_cast<int64_t>(o) * group_in + i) * taps + tap;
  }
};

template <class T>
CONVFIRST_DEVICE T load_weight(const Weights& weights, int o, int i, int tap) {
  const int64_t at = weights.index(o, i, tap);
  return weights.packed ? from_float<T>(Global<const float>(weights.data).load(at))
                        : Global<const T>(weights.data).load(at);
}

// Element o of a bias, which is fp32 where the weights are packed.
template <class T>
CONVFIRST_DEVICE float load_bias(const Buffer& bias, const Weights& weights, int o) {
  return weights.packed ? Global<const float>(bias).load(o) : to_float(Global<const T>(bias).load(o));
}

// The largest number of blocks along x that a grid may have.
constexpr int64_t kMostBlocks = 0x7fffffff;

inline bool is_aligned(const Buffer& buffer) { return reinterpret_cast<uintptr_t>(buffer.data) % 16 == 0; }

}  // namespace convfirst::cuda
