// The attributes that NVIDIA's vector_types.h and cuda_fp16.h are written with, as g++ knows them: for machines that
// have these two headers from nvidia-cuda-runtime and not this one's original from nvidia-cuda-crt.
#pragma once

#define __align__(n) __attribute__((aligned(n)))
#define __builtin_align__(n) __align__(n)
#define __device_builtin__
#define __cudart_builtin__
#define __forceinline__ inline
#define CUDARTAPI
