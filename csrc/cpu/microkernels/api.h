// What a microkernel takes and where it is found: argument structs, function types and one table per instruction set.
#pragma once

#include <cstdint>

#include "activation_tables.h"

namespace convfirst {

struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

// Arithmetic is done on elements E, float or Half, in blocks of 64 bytes whatever the register width: packed weights
// and hidden activations then have one layout on every machine.
template <class E>
constexpr int kLanesOf = 64 / static_cast<int>(sizeof(E));
template <class E>
constexpr int kNarrowLanesOf = kLanesOf<E> / 2;
constexpr int kLanes = kLanesOf<float>;
constexpr int kNarrowLanes = kNarrowLanesOf<float>;
constexpr float kInfinity = __builtin_inff();
constexpr int kMaxGemmRows = 28;
constexpr int kMaxGemmBlocks = 4;

// Products that are added in fp16 before their sum is added in fp32. A sum of n products is then off by at most
// kMostHalfProducts + 1 roundings of 2^-11 (bound: csrc/README.md), however large n is.
constexpr int64_t kMostHalfProducts = 96;

enum class Activation : int {
  kIdentity,
  kRelu,
  kRelu6,
  kSilu,
  kHardswish,
  kGelu,
  kGeluTanh,
  kSigmoid,
  kHardsigmoid,
};
constexpr int kActivationCount = 9;

// C[i][n] = clamp(clamp(init + sum over taps t and k of A[i][t][k] * B[n][t][k]) + residual), for kRows pixels and
// kBlocks blocks of output channels. A tap is an offset from the pixel: one for a 1x1 convolution, one a filter row
// for a direct convolution, one a channel block where A is stored blocked.
// In fp16 partial sums stay fp32: they come from `sums` and go to `partial`, which take the strides of init and c.
template <class E>
struct GemmArgs {
  const E* a;
  int64_t a_stride;     // elements between pixels
  const int64_t* taps;  // elements from a pixel's start, one a tap
  int64_t tap_count;
  int64_t depth;          // contiguous products a tap
  const int64_t* b_taps;  // elements from b, one a tap; nullptr: taps lie one behind the other
  const E* b;             // packed [block][tap][k][lane]
  int64_t b_block;        // elements between output blocks
  const E* init;          // bias (init_stride 0), or partial sums in fp32 arithmetic
  int64_t init_stride;
  int64_t init_block;
  E* c;
  int64_t c_stride;
  int64_t c_block;
  int64_t c_row;     // pixels until c jumps over c_gap elements (the padding between image rows); 0: never
  int64_t c_column;  // position of the first pixel in its row
  int64_t c_gap;
  const E* residual;  // nullptr: none; rows without gaps
  int64_t residual_stride;
  float low, high;                                   // clamp: exact for identity, relu and relu6
  float sum_low = -kInfinity, sum_high = kInfinity;  // of the sum with the residual
  int64_t last_lanes;                                // channels in the last block; at most half a block for gemm_narrow
  bool streams;       // whole blocks without a residual pass the caches: c and its strides are multiples of 64 bytes
  const float* sums;  // fp16 only; nullptr: start from init
  float* partial;     // fp16 only; nullptr: results go to c
};
template <class E>
using GemmKernel = void (*)(const GemmArgs<E>&);

// C[i][n] += sum over runs and p of A[run][p][i] * B[run][p][n]: a product summed over pixels, for kRows channels of A
// and kBlocks blocks of B. With kRows = 0 lanes meet lanes: c[n] += sum A[n] * B[n], as depthwise gradients want it.
template <class E>
struct OuterArgs {
  const E* a;
  int64_t a_step;  // elements between pixels
  const E* b;
  int64_t b_step;
  const int64_t* a_runs;  // elements from a, one a run
  const int64_t* b_runs;
  int64_t run_count;
  int64_t pixels;  // of every run
  E* c;            // [block][row][lane]
  int64_t c_block;
  int64_t last_lanes;  // channels of B in the last block, at least one
};
template <class E>
using OuterKernel = void (*)(const OuterArgs<E>&);
constexpr int kMaxOuterRows = 14;
constexpr int kMaxOuterBlocks = 2;

// Runs of output pixels of one channel block, one below the other: depthwise, or grouped with group width 8.
template <class E>
struct SpatialArgs {
  const E* const* rows;  // kernel_h pointers to the first input pixel of a run; nullptr: a row of zeros
  int64_t runs;          // of `tile` pixels
  int64_t rows_step;     // pointers between the rows of one run and the next
  int64_t out_row;       // elements between the outputs of one run and the next
  int64_t in_offset;     // elements from there
  int64_t in_stride;     // elements between input pixels
  const E* weights;      // depthwise [kh][kw][lane], group width 8 [kh][kw][8][lane]
  const E* bias;         // a block
  E* out;
  int64_t out_stride;
  int64_t lanes;                                 // channels stored, at least one
  int64_t kernel_h, kernel_w, stride, dilation;  // horizontal stride and dilation; read by the generic kernels only
  float low, high;
  bool streams;  // whole blocks pass the caches: out and its strides are multiples of 64 bytes
};
template <class E>
using SpatialKernel = void (*)(const SpatialArgs<E>&);

// Tiles of m x m outputs of a 3x3 convolution by F(m x m, 3x3), m being 2 or 4: (m + 2)^2 positions of transformed
// values, a matrix product over the channels at each.
constexpr int kWinogradTiles[] = {2, 4};
constexpr int kWinogradTileCount = 2;
constexpr int kMostWinogradPixels = 36;

template <class E>
struct WinogradInputArgs {
  const E* const* pixels;  // (m + 2)^2, row by row; those outside the image point at zeros
  int64_t channels;
  E* out;                 // whole blocks of channels are written at every position
  int64_t position_step;  // elements
};
template <class E>
using WinogradInputKernel = void (*)(const WinogradInputArgs<E>&);

// G g G^T of a block of output channels and one input channel.
template <class E>
struct WinogradFilterArgs {
  const E* kernel;  // [row][column][lane]
  E* out;
  int64_t position_step;  // elements
};
template <class E>
using WinogradFilterKernel = void (*)(const WinogradFilterArgs<E>&);

// out = clamp(clamp(A^T sums A + bias) + residual), the outer clamp where there is a residual.
template <class E>
struct WinogradOutputArgs {
  const E* sums;
  int64_t position_step;
  const E* bias;
  E* out;
  int64_t row_step, pixel_step;  // elements, of out and residual
  int64_t rows, columns;         // outputs that are stored, at most m
  int64_t channels;              // whole blocks
  const E* residual;             // nullptr: none
  float low, high;
  float sum_low = -kInfinity, sum_high = kInfinity;  // where there is a residual
  bool streams;  // results pass the caches: out and its steps are multiples of 64 bytes
};
template <class E>
using WinogradOutputKernel = void (*)(const WinogradOutputArgs<E>&);

// Converts pixels of one channel block: out[p][lane] = in[p * in_stride + lane], zeros beyond lanes.
template <class E>
struct GatherArgs {
  const void* in;
  int64_t in_stride;
  E* out;
  int64_t pixels;
  int64_t lanes;
};
template <class E>
using GatherKernel = void (*)(const GatherArgs<E>&);

// out[p][c] = in[c][p]: planes become channels.
template <class E>
struct InterleaveArgs {
  const E* in;
  int64_t in_plane;  // elements between planes
  int64_t planes;
  E* out;
  int64_t out_stride;  // elements between pixels
  int64_t pixels;
};
template <class E>
using InterleaveKernel = void (*)(const InterleaveArgs<E>&);

// out[i] = (before[i] + 2 at[i] + behind[i]) / 4: the triangle-3 filter in one direction.
template <class E>
struct BlurArgs {
  const E *before, *at, *behind;
  E* out;
  int64_t count;
};
template <class E>
using BlurKernel = void (*)(const BlurArgs<E>&);

// out[p][c] = clamp(activation(in[p][c]) + residual[p][c]), from blocks to NHWC storage; nothing is clamped where there
// is no residual.
template <class E>
struct FinishArgs {
  const E* in;
  int64_t in_stride, in_block;
  void* out;
  int64_t out_stride;
  const void* residual;  // nullptr: none
  int64_t residual_stride;
  int64_t pixels;
  int64_t channels;
  Activation activation;
  float sum_low = -kInfinity, sum_high = kInfinity;
};
template <class E>
using FinishKernel = void (*)(const FinishArgs<E>&);

template <class E>
using WidenKernel = void (*)(const void* in, E* out, int64_t count);
template <class E>
using ActivateKernel = void (*)(E* values, int64_t blocks, Activation);
// values[p][c] = (values[p][c] - mean) / sqrt(variance + epsilon) [* weight[c] + bias[c]], in place; mean and variance
// are those of a pixel's channels.
template <class E>
struct NormalizeArgs {
  E* values;
  int64_t stride;
  int64_t pixels;
  int64_t channels;
  float epsilon;
  const E* weight;  // padded to whole blocks; nullptr: neither weight nor bias
  const E* bias;
};
template <class E>
using NormalizeKernel = void (*)(const NormalizeArgs<E>&);

// Sums stay fp32.
template <class E>
using SumKernel = void (*)(const E* in, int64_t pixels, float* sum);
template <class E>
using ScaleKernel = void (*)(E* values, int64_t pixels, const E* scale);
// out[r][lane] = in[r][lane] * factors[r].
template <class E>
using RescaleKernel = void (*)(const E* in, int64_t rows, const E* factors, E* out);

// Channels that lie side by side where a tensor is stored in panels, [panel][pixel][channel]: pixels are then close
// enough that a product of many channels does not displace them from the L1 cache.
constexpr int kPanel = 2 * kLanes;

// Passes of batch norm in training (norm.inl says which reads what) over pixels of any channels.
template <class E>
struct NormArgs {
  const E* x;
  int64_t x_stride;
  const E* other;  // a gradient, or a residual; nullptr: none
  int64_t other_stride;
  E* out;
  int64_t out_stride;
  int64_t out_panel;  // elements between panels of out, whose last block is then filled up; 0: no panels
  int64_t pixels, channels;
  const E *scale, *shift, *gate, *offset, *mean;  // one a channel; nullptr: no gate, no offset
  float* sums;                                    // added to; the second of two rows lies sums_stride behind
  int64_t sums_stride;
  Activation activation;  // neither sigmoid nor hardsigmoid where its slope is wanted
};
template <class E>
using NormKernel = void (*)(const NormArgs<E>&);

constexpr int kTileWidths[] = {14, 8, 7, 4, 2, 1};
constexpr int kTileWidthCount = 6;

template <class E>
struct SpatialFamily {
  SpatialKernel<E> special[3][2][kTileWidthCount];  // kernel 3, 5, 7; stride 1, 2; a width of kTileWidths
  SpatialKernel<E> generic[kTileWidthCount];
};

enum class Storage : int { kFloat32, kBFloat16, kFloat16 };
constexpr int kStorageCount = 3;

template <class T>
struct StorageOf;
template <>
struct StorageOf<float> {
  static constexpr Storage value = Storage::kFloat32;
};
template <>
struct StorageOf<BFloat16> {
  static constexpr Storage value = Storage::kBFloat16;
};
template <>
struct StorageOf<Half> {
  static constexpr Storage value = Storage::kFloat16;
};

// The kernels that compute in E. Those of fp16 read and write fp16 storage only.
template <class E>
struct Kernels {
  GemmKernel<E> gemm[kMaxGemmBlocks][kMaxGemmRows];  // nullptr where it does not fit the registers
  GemmKernel<E> gemm_narrow[kMaxGemmRows];           // one block of at most half its channels
  int most_rows[kMaxGemmBlocks];                     // of gemm; 0: none with as many blocks
  int most_narrow_rows;
  OuterKernel<E> outer[kMaxOuterBlocks][kMaxOuterRows];  // fp32 only
  OuterKernel<E> inner;                                  // fp32 only: kRows = 0
  OuterKernel<E> inner8;                                 // fp32 only: lanes by the eight lanes of their group
  OuterKernel<E> inner8_three;                           // fp32 only: for three kernel columns at once
  SpatialFamily<E> depthwise;
  SpatialFamily<E> grouped8;
  WinogradInputKernel<E> winograd_input[kWinogradTileCount];    // fp32 only
  WinogradFilterKernel<E> winograd_filter[kWinogradTileCount];  // fp32 only
  WinogradOutputKernel<E> winograd_output[kWinogradTileCount];  // fp32 only
  GatherKernel<E> gather[kStorageCount];
  FinishKernel<E> finish[kStorageCount];
  WidenKernel<E> widen[kStorageCount];
  InterleaveKernel<E> interleave;
  BlurKernel<E> blur;
  ActivateKernel<E> activate;
  SumKernel<E> sum;
  ScaleKernel<E> scale;
  RescaleKernel<E> rescale;
  NormalizeKernel<E> normalize;
  NormKernel<E> apply_norm, combine, activation_grad, gate_grad, moments;  // fp32 only
};

// Where products in fp16 come from: the portable kernels, fp32 instructions that round every result, or the CPU.
enum class HalfArithmetic : int { kBorrowed, kEmulated, kNative };

struct KernelTable {
  const char* isa;
  Kernels<float> fp32;
  const Kernels<Half>* fp16;
  HalfArithmetic half_arithmetic;
};

// One of these per instruction set, filled from kernels.inc.
const KernelTable* portable_kernels();
const KernelTable* avx2_kernels();
const KernelTable* avx512_kernels();
const KernelTable* avx512fp16_kernels();

}  // namespace convfirst
