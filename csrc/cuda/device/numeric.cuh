// Conversions between storage and fp32, and activations on fp32 sums.
#pragma once

#include "memory.cuh"

namespace convfirst::cuda {

CONVFIRST_DEVICE float to_float(float x) { return x; }
CONVFIRST_DEVICE float to_float(Half x) { return __half2float(x); }
CONVFIRST_DEVICE float to_float(BFloat16 x) { return __bfloat162float(x); }

template <class T>
CONVFIRST_DEVICE T from_float(float x) {
  if constexpr (std::is_same_v<T, Half>) {
    return __float2half_rn(x);
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    return __float2bfloat16_rn(x);
  } else {
    return x;
  }
}

// Two neighbours in one register, the first in the low half.
template <class T>
CONVFIRST_DEVICE unsigned pack_pair(float low, float high) {
  if constexpr (std::is_same_v<T, Half>) {
    return bits_as<unsigned>(__floats2half2_rn(low, high));
  } else {
    return bits_as<unsigned>(__floats2bfloat162_rn(low, high));
  }
}

// kCount values as they are stored.
template <class T, int kCount>
CONVFIRST_DEVICE Vector<T, kCount> narrow(const float (&x)[kCount]) {
  Vector<T, kCount> result;
  if constexpr (sizeof(T) == 2 && kCount % 2 == 0) {
    Vector<unsigned, kCount / 2> pairs;
    CONVFIRST_UNROLL
    for (int i = 0; i < kCount / 2; ++i) pairs[i] = pack_pair<T>(x[2 * i], x[2 * i + 1]);
    result = bits_as<Vector<T, kCount>>(pairs);
  } else {
    CONVFIRST_UNROLL
    for (int i = 0; i < kCount; ++i) result[i] = from_float<T>(x[i]);
  }
  return result;
}

// In the order of the operators' `activation` names.
enum class Activation : int {
  kIdentity,
  kRelu,
  kRelu6,
  kSilu,
  kHardswish,
  kGelu,
  kGeluTanh,
  kSigmoid,
  kHardsigmoid,
};

// Comparisons are written so that NaN passes.
CONVFIRST_DEVICE float clamp(float x, float low, float high) { return x < low ? low : x > high ? high : x; }
CONVFIRST_DEVICE float relu(float x) { return x < 0.0f ? 0.0f : x; }

// To about 2^-21 of its value.
CONVFIRST_DEVICE float sigmoid(float x) {
#ifdef __CUDA_ARCH__
  return __fdividef(1.0f, 1.0f + __expf(-x));
#else
  return 1.0f / (1.0f + expf(-x));
#endif
}
CONVFIRST_DEVICE float gelu(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f)); }
// tanh(y) = 2 sigmoid(2 y) - 1.
CONVFIRST_DEVICE float gelu_tanh(float x) { return x * sigmoid(1.5957691216057308f * (x + 0.044715f * x * x * x)); }
CONVFIRST_DEVICE float hardsigmoid(float x) { return clamp(x + 3.0f, 0.0f, 6.0f) * (1.0f / 6.0f); }

// All of x at once: the choice is made once, and nothing is called, which would cost registers.
template <int kRows, int kCount>
CONVFIRST_DEVICE void activate(float (&x)[kRows][kCount], Activation activation) {
  const auto each = [&](auto function) {
    CONVFIRST_UNROLL
    for (int row = 0; row < kRows; ++row) {
      CONVFIRST_UNROLL
      for (int i = 0; i < kCount; ++i) x[row][i] = function(x[row][i]);
    }
  };
  switch (activation) {
    case Activation::kIdentity: return;
    case Activation::kRelu: return each([](float v) { return relu(v); });
    case Activation::kRelu6: return each([](float v) { return clamp(v, 0.0f, 6.0f); });
    case Activation::kSilu: return each([](float v) { return v * sigmoid(v); });
    case Activation::kHardswish: return each([](float v) { return v * hardsigmoid(v); });
    case Activation::kGelu: return each([](float v) { return gelu(v); });
    case Activation::kGeluTanh: return each([](float v) { return gelu_tanh(v); });
    case Activation::kSigmoid: return each([](float v) { return sigmoid(v); });
    case Activation::kHardsigmoid: return each([](float v) { return hardsigmoid(v); });
  }
}
template <int kCount>
CONVFIRST_DEVICE void activate(float (&x)[kCount], Activation activation) {
  activate(reinterpret_cast<float (&)[1][kCount]>(x), activation);
}

}  // namespace convfirst::cuda
