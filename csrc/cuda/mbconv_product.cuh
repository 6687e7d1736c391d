// What follows the hidden tensor of an inverted residual: the gates of squeeze-excite, and the projection of the gated
// tensor with bias, activation and residual (Lavin, arXiv 2404.03617, section 5.4).
//
// Gates: a block of 8 warps takes an image; a warp adds up a squeezed channel, a thread a gate. Product: a block of 8
// warps takes 128 pixels, of one image or several, and 64 or 128 outputs; A and B come 32 inputs at a time, three
// stages of cp.async deep. A warp takes 32 pixels and half of the outputs; where there are gates it multiplies A's
// registers by them in fp32. Results pass through shared memory in fp32, 64 outputs at a time, so that residual and
// output move 16 bytes a thread. Layout: NHWC, 16-byte aligned, channels multiples of 8; sums are fp32.
//
// Cost: 2 E K FLOPs a pixel; 2 E bytes read, from L2 where the hidden tensor is a part of the batch, and 2 K or 4 K of
// output and residual. Prediction for an H200 (mma.sync at 470 TFLOP/s, L2 at 5.5 TB/s, copy 4.3 TB/s) for E = 768, K =
// 192, 14 x 14, N = 128, gated: 7.4 GFLOP in three tiles of 64 outputs, 16 us; gates, 44 instructions of a warp beside
// 22 for 16 x 32 products, 10 us; 39 MB of A from L2, three times, 21 us beside them; 19 MB of residual and output.
// About 30 us.
#pragma once

#include "device/async_copy.cuh"
#include "device/mma.cuh"
#include "device/warp.cuh"
#include "mbconv_passes.h"

namespace convfirst::cuda {

constexpr int kExciteWarps = 8, kExciteThreads = kExciteWarps * kWarp;

__global__ void __launch_bounds__(kExciteThreads) excite_kernel(const CONVFIRST_GRID_CONSTANT ExcitePass pass) {
  const int image = static_cast<int>(blockIdx.x), own = static_cast<int>(threadIdx.x);
  const int warp = own / kWarp, lane = own % kWarp;
  const Shared<float> means = shared_memory<float>(), squeezed = means + pass.hidden;
  const Global<const float> sums(pass.sums), reduce(pass.reduce_weight), excite(pass.excite_weight);
  const auto bias_of = [](const Buffer& bias, int i) { return bias.data ? Global<const float>(bias).load(i) : 0.0f; };
  for (int e = own; e < pass.hidden; e += kExciteThreads) {
    float sum = 0.0f;
    for (int tile = 0; tile < pass.tiles; ++tile) {
      sum += sums.load((static_cast<int64_t>(image) * pass.tiles + tile) * pass.hidden + e);
    }
    means.store(e, sum / static_cast<float>(pass.pixels));
  }
  __syncthreads();  // the means are there
  for (int j = warp; j < pass.squeezed; j += kExciteWarps) {
    float sum = 0.0f;
    for (int e = lane; e < pass.hidden; e += kWarp) {
      sum += reduce.load(static_cast<int64_t>(j) * pass.hidden + e) * means.load(e);
    }
    float x[1] = {sum_lanes(sum, kWarp) + bias_of(pass.reduce_bias, j)};
    activate(x, pass.activation);
    if (lane == 0) squeezed.store(j, x[0]);
  }
  __syncthreads();  // the squeezed channels are there
  for (int e = own; e < pass.hidden; e += kExciteThreads) {
    float x[1] = {bias_of(pass.excite_bias, e)};
    for (int j = 0; j < pass.squeezed; ++j) {
      x[0] += excite.load(static_cast<int64_t>(e) * pass.squeezed + j) * squeezed.load(j);
    }
    activate(x, pass.gate_activation);
    Global<float>(pass.gate).store(static_cast<int64_t>(image) * pass.hidden + e, x[0]);
  }
}

constexpr int kProductWarps = 8, kProductThreads = kProductWarps * kWarp;
constexpr int kProductRows = 128, kProductDepth = 32, kProductStages = 3;
constexpr int kProductStride = kProductDepth + 8, kStagedColumns = 64, kStagedStride = kStagedColumns + 4;

template <int kColumns>
struct ProductShape {
  static constexpr int kStage = (kProductRows + kColumns) * kProductStride;  // elements
  static constexpr int64_t kStages = int64_t{2} * kProductStages * kStage;   // bytes
  static constexpr int64_t kResults = int64_t{4} * kProductRows * kStagedStride;
  static constexpr int64_t kBytes = kStages > kResults ? kStages : kResults;
};

template <class T, int kColumns>
struct ProductKernel {
  using Shape = ProductShape<kColumns>;
  static constexpr int kTiles = kColumns / 16;  // of 8 outputs that a warp takes
  const ProductPass& pass;
  Shared<T> stages;
  int warp, lane, column;  // the first output
  int64_t row;             // the first pixel

  CONVFIRST_DEVICE Shared<T> stage(int chunk) const { return stages + chunk % kProductStages * Shape::kStage; }

  // 32 inputs of all pixels and outputs; zeros beyond the last ones.
  CONVFIRST_DEVICE void fetch(int chunk) const {
    const Global<const T> input(pass.input), weight(pass.weight);
    const int own = static_cast<int>(threadIdx.x) / 4, vector = static_cast<int>(threadIdx.x) % 4 * 8;
    const int channel = chunk * kProductDepth + vector;
    const Shared<T> a = stage(chunk), b = a + kProductRows * kProductStride;
    CONVFIRST_UNROLL
    for (int i = own; i < kProductRows; i += kProductThreads / 4) {
      const bool valid = row + i < pass.rows && channel < pass.inputs;
      copy_async<16>(a + i * kProductStride + vector, input + (valid ? (row + i) * pass.inputs + channel : 0), valid);
    }
    CONVFIRST_UNROLL
    for (int i = own; i < kColumns; i += kProductThreads / 4) {
      const bool valid = column + i < pass.outputs && channel < pass.inputs;
      const int64_t from = static_cast<int64_t>(column + i) * pass.inputs + channel;
      copy_async<16>(b + i * kProductStride + vector, weight + (valid ? from : 0), valid);
    }
  }

  // The gates' element of a pixel's image; of pixels beyond the last one that of the last.
  CONVFIRST_DEVICE int64_t gates_of(int64_t pixel) const {
    return (pixel < pass.rows ? pixel : pass.rows - 1) / pass.pixels * pass.inputs;
  }

  CONVFIRST_DEVICE static unsigned gated(unsigned pair, const Vector<float, 2>& gate) {
    const auto x = bits_as<Vector<T, 2>>(pair);
    return pack_pair<T>(to_float(x[0]) * gate[0], to_float(x[1]) * gate[1]);
  }

  // Channels `channel` and on of 16 pixels times the gates of their images, from[0] of the first 8.
  CONVFIRST_DEVICE void apply_gates(int channel, const int64_t (&from)[2], unsigned (&a)[4]) const {
    const Global<const float> gate(pass.gate);
    CONVFIRST_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int own = channel + i / 2 * 8;
      if (own < pass.inputs) a[i] = gated(a[i], gate.template load_vector<2>(from[i % 2] + own));
    }
  }

  CONVFIRST_DEVICE void multiply(int chunk, const int64_t (&gates)[2][2], float (&d)[2][kTiles][4]) const {
    const Shared<T> a_at = stage(chunk) + (warp % 4 * 32 + lane % 16) * kProductStride + lane / 16 * 8;
    const Shared<T> b_at = stage(chunk) +
                           (kProductRows + warp / 4 * (kColumns / 2) + lane / 16 * 8 + lane % 8) * kProductStride +
                           lane / 8 % 2 * 8;
    CONVFIRST_UNROLL
    for (int k = 0; k < kProductDepth; k += 16) {
      unsigned a[2][4];
      CONVFIRST_UNROLL
      for (int i = 0; i < 2; ++i) {
        load_matrices<false>(a[i], a_at + 16 * i * kProductStride + k);
        if (pass.gate.data) apply_gates(chunk * kProductDepth + k + 2 * (lane % 4), gates[i], a[i]);
      }
      CONVFIRST_UNROLL
      for (int j = 0; j < kTiles; j += 2) {
        unsigned b[4];
        load_matrices<false>(b, b_at + 8 * j * kProductStride + k);
        CONVFIRST_UNROLL
        for (int i = 0; i < 2; ++i) {
          multiply_16x8x16<T>(d[i][j], a[i], {b[0], b[1]});
          multiply_16x8x16<T>(d[i][j + 1], a[i], {b[2], b[3]});
        }
      }
    }
  }

  // The warp's sums of the 64 outputs from `first` on, if it has them, into shared memory.
  CONVFIRST_DEVICE void stage_results(Shared<float> results, int first, const float (&d)[2][kTiles][4]) const {
    const int own = warp / 4 * (kColumns / 2) - first;
    if (own < 0 || own >= kStagedColumns) return;
    CONVFIRST_UNROLL
    for (int i = 0; i < 2 * kTiles; ++i) {
      CONVFIRST_UNROLL
      for (int half = 0; half < 2; ++half) {
        const int pixel = warp % 4 * 32 + i / kTiles * 16 + half * 8 + lane / 4;
        const float* pair = &d[i / kTiles][i % kTiles][2 * half];
        (results + pixel * kStagedStride + own + i % kTiles * 8 + 2 * (lane % 4))
            .template store_vector<2>(0, {{pair[0], pair[1]}});
      }
    }
  }

  CONVFIRST_DEVICE void store_results(Shared<float> results, int first) const {
    const int channel = column + first + static_cast<int>(threadIdx.x) % 8 * 8;
    if (channel >= pass.outputs) return;
    float bias[8] = {};
    if (pass.bias.data) {
      CONVFIRST_UNROLL
      for (int i = 0; i < 8; ++i) bias[i] = Global<const float>(pass.bias).load(channel + i);
    }
    for (int i = static_cast<int>(threadIdx.x) / 8; i < kProductRows && row + i < pass.rows; i += kProductThreads / 8) {
      const Shared<float> from = results + i * kStagedStride + static_cast<int>(threadIdx.x) % 8 * 8;
      float x[8];
      CONVFIRST_UNROLL
      for (int k = 0; k < 2; ++k) {
        const auto part = from.template load_vector<4>(4 * k);
        CONVFIRST_UNROLL
        for (int j = 0; j < 4; ++j) x[4 * k + j] = part[j] + bias[4 * k + j];
      }
      activate(x, pass.activation);
      const int64_t at = (row + i) * pass.outputs + channel;
      if (pass.residual.data) {
        const auto residual = Global<const T>(pass.residual).template load_vector<8>(at);
        CONVFIRST_UNROLL
        for (int k = 0; k < 8; ++k) x[k] += to_float(residual[k]);
      }
      Global<T>(pass.output).template store_vector<8>(at, narrow<T>(x));
    }
  }

  CONVFIRST_DEVICE void run() const {
    const int chunks = ceil_div(pass.inputs, kProductDepth);
    int64_t gates[2][2];
    CONVFIRST_UNROLL
    for (int i = 0; i < 4; ++i) {
      gates[i / 2][i % 2] = gates_of(row + warp % 4 * 32 + i / 2 * 16 + i % 2 * 8 + lane / 4);
    }
    float d[2][kTiles][4] = {};
    for (int chunk = 0; chunk < kProductStages - 1; ++chunk) {
      if (chunk < chunks) fetch(chunk);
      commit_copies();
    }
    CONVFIRST_NO_UNROLL
    for (int chunk = 0; chunk < chunks; ++chunk) {
      wait_copies<kProductStages - 2>();
      __syncthreads();  // the chunk has come, and the one before is no longer read
      if (chunk + kProductStages - 1 < chunks) fetch(chunk + kProductStages - 1);
      commit_copies();
      multiply(chunk, gates, d);
    }
    wait_copies<0>();
    const Shared<float> results = stages.template as<float>();
    CONVFIRST_UNROLL
    for (int first = 0; first < kColumns; first += kStagedColumns) {
      __syncthreads();  // nobody reads what lies there
      stage_results(results, first, d);
      __syncthreads();  // the results are there
      store_results(results, first);
    }
  }
};

template <class T, int kColumns>
__global__ void __launch_bounds__(kProductThreads, 2) product_kernel(const CONVFIRST_GRID_CONSTANT ProductPass pass) {
  const unsigned columns = static_cast<unsigned>(ceil_div(pass.outputs, kColumns));
  const ProductKernel<T, kColumns> kernel = {pass,
                                             shared_memory<T>(),
                                             static_cast<int>(threadIdx.x) / kWarp,
                                             static_cast<int>(threadIdx.x) % kWarp,
                                             static_cast<int>(blockIdx.x % columns) * kColumns,
                                             static_cast<int64_t>(blockIdx.x / columns) * kProductRows};
  kernel.run();
}

}  // namespace convfirst::cuda
