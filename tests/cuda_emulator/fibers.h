// Fibers: an execution state with a stack of its own, switched by hand on x86-64 and by ucontext elsewhere.
#pragma once

#include <cstddef>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emulator {

class Fiber {
 public:
  // Starts at `entry` when it is first switched to; `entry` never returns.
  void prepare(void* stack, size_t bytes, void (*entry)());
  // Leaves `from`, whose state is kept, for `to`.
  static void switch_between(Fiber& from, Fiber& to);

 private:
#if defined(__x86_64__)
  void* stack_pointer_ = nullptr;
#else
  ucontext_t context_;
#endif
};

}  // namespace emulator
