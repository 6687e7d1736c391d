// What CUDA C++ gives a kernel, on a CPU: threads are fibers of one OS thread that switch at barriers and collectives.
//
// Kernels reach memory through csrc/cuda/device/memory.cuh only, whose emulated branch calls `read` and `write` here,
// so every access is checked: bounds to the byte, alignment, races (two threads, one of them writing, no barrier
// between), shared memory that nobody wrote, copies that nobody waited for.
#pragma once

#include <cstdint>
#include <functional>

#define __host__
#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

#include <vector_functions.h>
#include <vector_types.h>

// Of the fiber that runs now.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

void __syncthreads(int line = __builtin_LINE());
void __syncwarp(unsigned mask = 0xffffffffu, int line = __builtin_LINE());

namespace emulator {

// What one allocation remembers of each two bytes: who wrote and who read them last, and when.
struct Shadow;

// Memory that a pointer may reach; null `shadow` means read-only.
struct Extent {
  char* begin = nullptr;
  int64_t bytes = 0;
  Shadow* shadow = nullptr;
};

// Extents of a tensor of the host and of the running block's shared memory (rank: another block of its cluster).
Extent global_extent(void* begin, int64_t bytes, bool writable);
Extent shared_extent(int rank = -1);

// Checks an access of so many bytes and notes it.
void read(const Extent& extent, const char* at, int64_t bytes);
void write(const Extent& extent, const char* at, int64_t bytes);
// Atomic with respect to other atomics; anything else races with it.
void update(const Extent& extent, const char* at, int64_t bytes);

// cp.async: `bytes` arrive (or `zeros` do) when the thread waits for the group that the copy belongs to.
void copy_async(const Extent& to, char* at, const Extent& from, const char* source, int bytes, bool zeros);
void commit_copies();
void wait_copies(int pending_groups);

// What the lanes of a warp do together; the last lane to come does it for all of them.
enum class Collective { kNone, kSyncWarp, kShuffle, kBallot, kMatrixLoad, kMultiply8, kMultiply16 };
struct Shuffle {
  uint64_t value;
  int source;  // the lane whose value is wanted
  uint64_t result;
};
struct Ballot {
  bool predicate;
  unsigned result;
};
struct MatrixLoad {
  Extent extent;
  const char* row;  // of the lane's own row
  int count;        // 1, 2 or 4 matrices of 8x8 two-byte elements
  bool transposed;
  unsigned* registers;
};
enum class Half { kFloat16, kBFloat16 };
struct Multiply {
  Half type;
  float* d;  // 4, read and written
  const unsigned* a;
  const unsigned* b;
};
void together(Collective kind, void* operands, int line);

void cluster_sync(int line);
int cluster_rank();
int cluster_size();

// Ends the launch with a message; what was written so far stays.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

struct LaunchShape {
  dim3 grid, block;
  int64_t shared_bytes = 0;
  int cluster = 1;  // blocks along x
};
// Runs the kernel on every thread; nullptr, or what went wrong.
const char* launch(const LaunchShape& shape, const std::function<void()>& kernel);

}  // namespace emulator
