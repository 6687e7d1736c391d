// Vec on CPUs with AVX512-FP16: fp32 lanes are those of AVX-512.

#include "avx512.h"
