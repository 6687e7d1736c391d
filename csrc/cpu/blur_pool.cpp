// A task is an output row: its three input rows are blurred into one in the cache, and that along the row. So every
// value is read from memory once by each of at most two rows, and 6 products a channel are left of 9.
#include "blur_pool.h"

#include "microkernels/isa.h"
#include "parallel.h"

namespace convfirst {
namespace {

int64_t reflected(int64_t i, int64_t size) { return i < 0 ? -i : i >= size ? 2 * size - 2 - i : i; }

template <class E>
void blur_row(const BlurPool<E>& pool, const void* data, int64_t image, int64_t y, int64_t first_channel) {
  const Kernels<E>& kernels = kernels_for<E>();
  const ImageView& in = pool.in;
  const int64_t row = in.w * in.c;
  const auto input_row = [&](int64_t at) {
    return static_cast<const E*>(data) + (image * in.h + reflected(at, in.h)) * row;
  };
  E* blurred = task_scratch<E>(row);
  const int64_t middle = y * pool.stride;
  kernels.blur({input_row(middle - 1), input_row(middle), input_row(middle + 1), blurred, row});
  E* out = static_cast<E*>(pool.out) + (image * pool.out_h() + y) * pool.out_w() * pool.out_c() + first_channel;
  for (int64_t x = 0; x < pool.out_w(); ++x) {
    const auto pixel = [&](int64_t at) { return blurred + reflected(at, in.w) * in.c; };
    const int64_t column = x * pool.stride;
    kernels.blur({pixel(column - 1), pixel(column), pixel(column + 1), out + x * pool.out_c(), in.c});
  }
}

}  // namespace

template <class E>
void run_blur_pool(const BlurPool<E>& pool) {
  for_each_task(pool.in.n * pool.out_h(), [&](int64_t task) {
    const int64_t image = task / pool.out_h(), y = task % pool.out_h();
    blur_row(pool, pool.in.data, image, y, 0);
    if (pool.beside) blur_row(pool, pool.beside, image, y, pool.in.c);
  });
}

template void run_blur_pool(const BlurPool<float>&);
template void run_blur_pool(const BlurPool<Half>&);

}  // namespace convfirst
