// Global average pooling: tasks are channel blocks, each summed in fp32 over all pixels in order.
#include "global_pool.h"

#include <cstring>

#include "microkernels/isa.h"
#include "parallel.h"

namespace convfirst {
namespace {

constexpr int64_t kPixels = 32;  // widened at a time: 2 KiB

void pool_block(const GlobalPool& pool, int64_t image, int64_t channel) {
  const Kernels<float>& k = kernels_for<float>();
  const ImageView& in = pool.in;
  const int64_t pixels = in.h * in.w, lanes = in.c - channel < kLanes ? in.c - channel : kLanes;
  float total[kLanes] = {}, scale[kLanes], widened[kPixels * kLanes];
  for (float& s : scale) s = 1.0f / static_cast<float>(pixels);
  for (int64_t p = 0; p < pixels; p += kPixels) {
    const int64_t count = pixels - p < kPixels ? pixels - p : kPixels;
    const void* source = offset(in.data, in.storage, (image * pixels + p) * in.c + channel);
    k.gather[static_cast<int>(in.storage)]({source, in.c, widened, count, lanes});
    k.sum(widened, count, total);
  }
  k.scale(total, 1, scale);
  FinishArgs<float> f{};
  f.in = total, f.in_stride = kLanes, f.out = offset(pool.out, in.storage, image * in.c + channel), f.out_stride = in.c;
  f.pixels = 1, f.channels = lanes;
  k.finish[static_cast<int>(in.storage)](f);
}

}  // namespace

void run_global_pool(const GlobalPool& pool) {
  const int64_t blocks = ceil_div(pool.in.c, kLanes);
  for_each_task(pool.in.n * blocks, [&](int64_t task) { pool_block(pool, task / blocks, task % blocks * kLanes); });
}

}  // namespace convfirst
