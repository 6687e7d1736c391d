// A C door to the loaded microkernels, through which _native lists, checks and times them: they are built once only.
#pragma once

#include <cstdint>

namespace convfirst {

struct KernelTiming {
  double nanoseconds;  // a call
  double flops;        // a call
  double bytes;        // read and written by a call
};

struct KernelInspector {
  int isa_count;
  const char* (*isa_name)(int isa);
  bool (*isa_available)(int isa);
  const char* (*isa_in_use)();
  bool (*multiplies_half)();  // whether the one in use has fp16 arithmetic
  int (*kernel_count)();
  const char* (*kernel_name)(int kernel);
  bool (*kernel_exists)(int isa, int kernel);
  // Largest absolute difference from a scalar reference on small-integer data, where 0 is exact.
  double (*check)(int isa, int kernel, uint64_t seed);
  KernelTiming (*time)(int isa, int kernel, double seconds);
  // Nanoseconds an fp32 element that passes through an activation, from a tile in the cache to another.
  double (*time_activation)(int isa, int activation, double seconds);
};

}  // namespace convfirst

extern "C" __attribute__((visibility("default"))) const convfirst::KernelInspector* convfirst_kernel_inspector();
