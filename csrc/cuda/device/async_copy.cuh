// cp.async: global to shared memory past the registers (PTX ISA, "Data Movement: cp.async"; sm_80 and newer).
#pragma once

#include "memory.cuh"

namespace convfirst::cuda {

// Copies 4, 8 or 16 bytes, or fills them with zeros where `valid` is false; they arrive at a later wait_copies.
template <int kBytes, class T>
CONVFIRST_DEVICE void copy_async(Shared<T> to, Global<const T> from, bool valid) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
#ifdef CONVFIRST_EMULATE
  emulator::copy_async(to.extent_, reinterpret_cast<char*>(to.raw()), from.extent(),
                       reinterpret_cast<const char*>(from.raw()), kBytes, !valid);
#else
  const unsigned at = static_cast<unsigned>(__cvta_generic_to_shared(to.raw()));
  const int read = valid ? kBytes : 0;
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(at), "l"(from.raw()), "r"(read) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;\n" ::"r"(at), "l"(from.raw()), "n"(kBytes), "r"(read)
                 : "memory");
  }
#endif
}

// Closes a group of the copies so far.
CONVFIRST_DEVICE void commit_copies() {
#ifdef CONVFIRST_EMULATE
  emulator::commit_copies();
#else
  asm volatile("cp.async.commit_group;\n" ::: "memory");
#endif
}

// Waits until at most kPending of this thread's groups are on their way; other threads' need a barrier besides.
template <int kPending>
CONVFIRST_DEVICE void wait_copies() {
#ifdef CONVFIRST_EMULATE
  emulator::wait_copies(kPending);
#else
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
#endif
}

}  // namespace convfirst::cuda
