// Small kernels that use every primitive once, right or with one fault: what proves that the emulator finds faults.
#include "cuda/device/async_copy.cuh"
#include "cuda/device/cluster.cuh"
#include "cuda/device/launch.cuh"
#include "cuda/device/mma.cuh"
#include "cuda/device/warp.cuh"

namespace convfirst::cuda {
namespace {

struct Trial {
  Buffer in, other, out;
  int size, fault;  // 0: none
};

// out[i] = in[size - 1 - i], through shared memory, twice. Faults: 1 no barrier between writing and reading, 2 none
// before writing again, 3 reads one element too far, 4 one before the first, 5 only half the threads come to the
// barrier, 6 reads shared memory that nobody wrote, 7 two threads write one element.
__global__ void reverse(const CONVFIRST_GRID_CONSTANT Trial trial) {
  const Shared<float> row = shared_memory<float>();
  const Global<const float> in(trial.in);
  const Global<float> out(trial.out);
  const int i = static_cast<int>(threadIdx.x), last = trial.size - 1;
  for (int pass = 0; pass < 2; ++pass) {
    if (trial.fault != 6 || i > 0) row.store(i, in.load(trial.fault == 3 ? i + pass : trial.fault == 4 ? i - pass : i));
    if (trial.fault == 5 && i < trial.size / 2) return;
    if (trial.fault != 1) __syncthreads();
    if (pass)
      out.store(trial.fault == 7 ? i / 2 : i, row.load(last - i));
    else if (row.load(last - i) > 1e30f)
      out.store(i, 0.0f);
    if (trial.fault != 2) __syncthreads();
  }
}

// Neighbours of a warp exchange values through shared memory. Fault 1: no __syncwarp.
__global__ void exchange(const CONVFIRST_GRID_CONSTANT Trial trial) {
  const Shared<float> row = shared_memory<float>();
  const int i = static_cast<int>(threadIdx.x);
  row.store(i, Global<const float>(trial.in).load(i));
  if (trial.fault != 1) __syncwarp();
  Global<float>(trial.out).store(i, row.load(i ^ 1));
}

// out = in through cp.async, two groups. Faults: 1 waits for the first group only, 2 not at all, 3 no barrier after the
// wait, 4 never commits.
__global__ void copy_later(const CONVFIRST_GRID_CONSTANT Trial trial) {
  const Shared<float> row = shared_memory<float>();
  const Global<const float> in(trial.in);
  const int i = 4 * static_cast<int>(threadIdx.x), half = trial.size / 2;
  for (int part = 0; part < 2; ++part) {
    copy_async<16>(row + part * half + i, in + part * half + i, part == 0 || trial.fault != 5);
    if (trial.fault != 4) commit_copies();
  }
  if (trial.fault == 1) wait_copies<1>();
  if (trial.fault != 1 && trial.fault != 2) wait_copies<0>();
  if (trial.fault != 3) __syncthreads();
  for (int k = 0; k < 8; ++k) {
    const int j = (8 * static_cast<int>(threadIdx.x) + k + 8) % trial.size;
    Global<float>(trial.out).store(j, row.load(j));
  }
}

// out (16 x 8) = in (16 x kDepth) other (kDepth x 8). Faults: 1 A's rows g and g + 8 are taken for each other, 2 B is
// loaded as it lies instead of transposed, 3 some lanes skip the product, 4 D's pairs are taken for each other.
template <class T, int kDepth>
__global__ void multiply(const CONVFIRST_GRID_CONSTANT Trial trial) {
  const Shared<T> a = shared_memory<T>(), b = a + 16 * kDepth;
  const int lane = static_cast<int>(threadIdx.x);
  for (int i = lane; i < 16 * kDepth; i += kWarp) a.store(i, Global<const T>(trial.in).load(i));
  for (int i = lane; i < kDepth * 8; i += kWarp) b.store(i, Global<const T>(trial.other).load(i));
  __syncwarp();
  unsigned of_a[kDepth / 4], of_b[kDepth / 8];
  load_matrices<false>(of_a, a + lane % 16 * kDepth + lane / 16 % (kDepth / 8) * 8);
  if (trial.fault == 2) {
    load_matrices<false>(of_b, b + lane % kDepth * 8);
  } else {
    load_matrices<true>(of_b, b + lane % kDepth * 8);
  }
  if (trial.fault == 1) {
    const unsigned kept = of_a[0];
    of_a[0] = of_a[1], of_a[1] = kept;
  }
  float d[4] = {};
  if (trial.fault != 3 || lane < 16) {
    if constexpr (kDepth == 8) {
      multiply_16x8x8<T>(d, of_a, of_b[0]);
    } else {
      multiply_16x8x16<T>(d, of_a, of_b);
    }
  }
  const int row = lane / 4, column = 2 * (lane % 4), swap = trial.fault == 4 ? 8 : 0;
  const Global<float> out(trial.out);
  out.store_vector<2>(((row + swap) % 16) * 8 + column, {{d[0], d[1]}});
  out.store_vector<2>(((row + 8 + swap) % 16) * 8 + column, {{d[2], d[3]}});
}

// Sums, votes and counters: out[0] the sum of in, out[1] the number of positive elements.
__global__ void count(const CONVFIRST_GRID_CONSTANT Trial trial) {
  const int i = static_cast<int>(threadIdx.x);
  const float value = Global<const float>(trial.in).load(i), sum = sum_lanes(value, kWarp);
  unsigned votes = ballot(value > 0);
  int positive = 0;
  for (; votes; votes &= votes - 1) ++positive;
  if (value > 0) atomic_add(Global<int>(trial.other), 0, 1);
  if (i == 0) Global<float>(trial.out).store_vector<2>(0, {{sum, static_cast<float>(positive)}});
}

// Every block of a cluster adds up what all of them hold. Faults: 1 no barrier before reading, 2 none before leaving.
__global__ void add_up_cluster(const CONVFIRST_GRID_CONSTANT Trial trial) {
  const Shared<float> own = shared_memory<float>();
  const int i = static_cast<int>(threadIdx.x), block = static_cast<int>(blockIdx.x);
  own.store(i, Global<const float>(trial.in).load(block * trial.size + i));
  if (trial.fault != 1) sync_cluster();
  float sum = 0;
  for (int rank = 0; rank < 4; ++rank) sum += map_shared(own, (cluster_rank() + rank) % 4).load(i);
  Global<float>(trial.out).store(block * trial.size + i, sum);
  if (trial.fault != 2) sync_cluster();
}

}  // namespace
}  // namespace convfirst::cuda

extern "C" __attribute__((visibility("default"))) const char* run_trial(int kind,
                                                                        const convfirst::cuda::Buffer* buffers,
                                                                        int size, int fault) {
  using namespace convfirst::cuda;
  const Trial trial = {buffers[0], buffers[1], buffers[2], size, fault};
  const dim3 one(1, 1, 1);
  switch (kind) {
    case 0: return launch(reverse, {one, size, size * 4}, trial, nullptr);
    case 1: return launch(exchange, {one, size, size * 4}, trial, nullptr);
    case 2: return launch(copy_later, {one, size / 8, size * 4}, trial, nullptr);
    case 3: return launch(multiply<Half, 8>, {one, kWarp, 512}, trial, nullptr);
    case 4: return launch(multiply<Half, 16>, {one, kWarp, 768}, trial, nullptr);
    case 5: return launch(multiply<BFloat16, 8>, {one, kWarp, 512}, trial, nullptr);
    case 6: return launch(multiply<BFloat16, 16>, {one, kWarp, 768}, trial, nullptr);
    case 7: return launch(count, {one, kWarp, 0}, trial, nullptr);
    default: return launch(add_up_cluster, {dim3(8, 1, 1), size, size * 4, 4}, trial, nullptr);
  }
}
