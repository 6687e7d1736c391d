// Vec on CPUs with AVX512-FP16. Products and sums stay in fp32 here, so the lanes are those of AVX-512; the extension
// matters for kernels that multiply in fp16.

#include "avx512.h"
