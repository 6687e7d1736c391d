// What kernels are compiled for: a GPU, or the CPU emulator that tests/cuda_emulator runs them on.
//
// With CONVFIRST_EMULATE defined, g++ compiles the same kernels; only the files of this folder have two branches.
#pragma once

#ifdef CONVFIRST_EMULATE
#include <cuda_emulator.h>
#define CONVFIRST_GRID_CONSTANT
// The line of a caller that waits for others: all must wait in the same one.
#define CONVFIRST_FROM_LINE , int line = __builtin_LINE()
#define CONVFIRST_FROM_LINE_ONLY int line = __builtin_LINE()
#else
#include <cuda_runtime.h>
#define CONVFIRST_GRID_CONSTANT __grid_constant__
#define CONVFIRST_FROM_LINE
#define CONVFIRST_FROM_LINE_ONLY
#endif

// g++ compiles operators, which include the kernels' interfaces, and everything for the emulator.
#ifdef __CUDACC__
#define CONVFIRST_UNROLL _Pragma("unroll")
#define CONVFIRST_NO_UNROLL _Pragma("unroll 1")
#else
#define CONVFIRST_UNROLL
#define CONVFIRST_NO_UNROLL
#endif

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <math.h>

#include <cstdint>
#include <cstring>

#define CONVFIRST_DEVICE __device__ __forceinline__

namespace convfirst::cuda {

using Half = __half;
using BFloat16 = __nv_bfloat16;

constexpr int kWarp = 32;

template <class T>
__host__ __device__ constexpr T ceil_div(T a, T b) {
  return (a + b - 1) / b;
}

}  // namespace convfirst::cuda
