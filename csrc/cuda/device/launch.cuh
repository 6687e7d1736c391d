// Launches a kernel on a stream; never synchronises.
#pragma once

#include "platform.cuh"

namespace convfirst::cuda {

#ifdef CONVFIRST_EMULATE
using Stream = void*;
#else
using Stream = cudaStream_t;
#endif

// Blocks to aim at: several times what an H200's 132 multiprocessors hold; on the emulator few, so that strips are
// long.
#ifdef CONVFIRST_EMULATE
constexpr int64_t kEnoughBlocks = 4;
#else
constexpr int64_t kEnoughBlocks = 2048;
#endif

// Of a tensor between two launches, so that it stays in the L2 cache: half of an H200's 50 MB; on the emulator so few
// that a batch has parts.
#ifdef CONVFIRST_EMULATE
constexpr int64_t kMostHiddenBytes = 40 << 10;
#else
constexpr int64_t kMostHiddenBytes = 25 << 20;
#endif

struct LaunchShape {
  dim3 grid;
  int threads = 0;
  int64_t shared_bytes = 0;
  int cluster = 1;  // blocks along x that share their memory; more than one needs sm_90
};

// nullptr, or what went wrong in words that stay valid.
template <class Params>
const char* launch(void (*kernel)(Params), const LaunchShape& shape, const Params& params, Stream stream) {
#ifdef CONVFIRST_EMULATE
  (void)stream;
  const dim3 block(static_cast<unsigned>(shape.threads), 1, 1);
  return emulator::launch({shape.grid, block, shape.shared_bytes, shape.cluster}, [=] { kernel(params); });
#else
  constexpr int64_t kAlwaysAllowed = 48 << 10;
  cudaError_t error = cudaSuccess;
  if (shape.shared_bytes > kAlwaysAllowed) {
    error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shape.shared_bytes));
    if (error != cudaSuccess) return cudaGetErrorString(error);
  }
  constexpr int kPortableCluster = 8;
  if (shape.cluster > kPortableCluster) {
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
    if (error != cudaSuccess) return cudaGetErrorString(error);
  }
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = static_cast<unsigned>(shape.cluster);
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = dim3(static_cast<unsigned>(shape.threads), 1, 1);
  config.dynamicSmemBytes = static_cast<size_t>(shape.shared_bytes);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = shape.cluster > 1 ? 1 : 0;
  error = cudaLaunchKernelEx(&config, kernel, params);
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
#endif
}

}  // namespace convfirst::cuda
