// The sum of every channel over a batch: the gradient of a bias.
#include <algorithm>

#include "microkernels/isa.h"
#include "parallel.h"
#include "tensor.h"

namespace convfirst {
namespace {

constexpr int64_t kMostParts = 64;

// Sums of parts that do not depend on the number of threads; whole numbers stay exact as long as their sums do.
Tensor channel_sums(const Tensor input) {
  const ImageView in = view_nhwc(input, "input");
  STD_TORCH_CHECK(in.storage == Storage::kFloat32, "input must have dtype float32.");
  const int64_t pixels = in.n * in.h * in.w, parts = std::min(pixels, kMostParts);
  const int64_t strides[] = {1};
  Tensor sums = empty_strided(&in.c, strides, 1, aoti_torch_dtype_float32());
  float* total = static_cast<float*>(sums.mutable_data_ptr());
  // Zeros to subtract, then sums and squares of every part.
  float* scratch = call_scratch((1 + 2 * parts) * in.c);
  std::fill(scratch, scratch + (1 + 2 * parts) * in.c, 0.0f);
  for_each_task(parts, [&](int64_t part) {
    const int64_t first = pixels * part / parts;
    NormArgs<float> n{};
    n.x = static_cast<const float*>(in.data) + first * in.c, n.x_stride = in.c;
    n.pixels = pixels * (part + 1) / parts - first, n.channels = in.c, n.mean = scratch;
    n.sums = scratch + (1 + 2 * part) * in.c, n.sums_stride = in.c;
    kernels_for<float>().moments(n);
  });
  std::fill(total, total + in.c, 0.0f);
  for (int64_t i = 0; i < parts * in.c; ++i) total[i % in.c] += scratch[in.c + i / in.c * 2 * in.c + i % in.c];
  return sums;
}

STABLE_TORCH_LIBRARY_IMPL(convfirst, CPU, m) { m.impl("channel_sums", TORCH_BOX(&channel_sums)); }

}  // namespace
}  // namespace convfirst
