// Layer normalisation of runs of pixels: copied and normalised while they are in the L1 cache. Sums are fp32.
#include "layer_norm.h"

#include <algorithm>

#include "microkernels/isa.h"
#include "parallel.h"

namespace convfirst {

template <class E>
void run_layer_norm(const LayerNorm<E>& norm) {
  constexpr int64_t kRunFloats = 4096;
  const Kernels<E>& k = kernels_for<E>();
  const ImageView& in = norm.in;
  const int storage = static_cast<int>(in.storage);
  const int64_t pixels = in.n * in.h * in.w, run = std::max<int64_t>(1, kRunFloats / in.c);
  for_each_task(ceil_div(pixels, run), [&](int64_t task) {
    const int64_t first = task * run, count = std::min(run, pixels - first);
    E* values = task_scratch<E>(run * in.c);
    k.widen[storage](offset(in.data, in.storage, first * in.c), values, count * in.c);
    k.normalize({values, in.c, count, in.c, norm.epsilon, norm.weight, norm.bias});
    FinishArgs<E> f{};
    f.in = values, f.in_stride = in.c, f.in_block = kLanesOf<E>;
    f.out = offset(norm.out, in.storage, first * in.c), f.out_stride = in.c, f.pixels = count, f.channels = in.c;
    k.finish[storage](f);
  });
}

template void run_layer_norm(const LayerNorm<float>&);
template void run_layer_norm(const LayerNorm<Half>&);

}  // namespace convfirst
