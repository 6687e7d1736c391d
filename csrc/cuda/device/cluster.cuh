// Thread-block clusters and distributed shared memory (CUDA programming guide, "Thread Block Clusters"; sm_90).
#pragma once

#include "memory.cuh"

namespace convfirst::cuda {

// This block's number in its cluster.
CONVFIRST_DEVICE int cluster_rank() {
#ifdef CONVFIRST_EMULATE
  return emulator::cluster_rank();
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  unsigned rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;\n" : "=r"(rank));
  return static_cast<int>(rank);
#else
  return 0;
#endif
}

// Waits for all threads of the cluster; what they wrote to shared memory before is seen after it.
CONVFIRST_DEVICE void sync_cluster(CONVFIRST_FROM_LINE_ONLY) {
#ifdef CONVFIRST_EMULATE
  emulator::cluster_sync(line);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;\n" ::: "memory");
#endif
}

// The same place in the shared memory of the cluster's block number `rank`.
template <class T>
CONVFIRST_DEVICE Shared<T> map_shared(Shared<T> own, int rank) {
#ifdef CONVFIRST_EMULATE
  Shared<T> other = own;
  other.extent_ = emulator::shared_extent(rank);
  other.data_ =
      reinterpret_cast<T*>(other.extent_.begin + (reinterpret_cast<const char*>(own.raw()) - own.extent_.begin));
  return other;
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  uint64_t address;
  asm volatile("mapa.u64 %0, %1, %2;\n"
               : "=l"(address)
               : "l"(reinterpret_cast<uint64_t>(own.raw())), "r"(static_cast<unsigned>(rank)));
  Shared<T> other = own;
  other.data_ = reinterpret_cast<T*>(address);
  return other;
#else
  return own;
#endif
}

}  // namespace convfirst::cuda
