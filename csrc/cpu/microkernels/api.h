// What a microkernel takes and where it is found: argument structs, function types and one table per instruction set.
#pragma once

#include <cstdint>

#include "activation_tables.h"

namespace convfirst {

// Every kernel works on blocks of 16 fp32 lanes, whatever the register width: packed weights and hidden
// activations then have one layout on every machine.
constexpr int kLanes = 16;
constexpr int kHalfLanes = 8;
constexpr int kMaxGemmRows = 28;
constexpr int kMaxGemmBlocks = 4;

struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

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

// C[i][n] = clamp(init + sum over taps t and k of A[i][t][k] * B[n][t][k]) + residual, for kRows pixels and
// kBlocks blocks of output channels. A tap is an offset from the pixel: one for a 1x1 convolution, one a filter row
// for a direct convolution, one a channel block where A is stored blocked.
struct GemmArgs {
  const float* a;
  int64_t a_stride;     // floats between pixels
  const int64_t* taps;  // floats from a pixel's start, one a tap
  int64_t tap_count;
  int64_t depth;      // contiguous products a tap
  const float* b;     // packed [block][tap][k][16]
  int64_t b_block;    // floats between output blocks
  const float* init;  // bias (init_stride 0) or partial sums
  int64_t init_stride;
  int64_t init_block;
  float* c;
  int64_t c_stride;
  int64_t c_block;
  int64_t c_row;     // pixels until c jumps over c_gap floats (the padding between image rows); 0: never
  int64_t c_column;  // position of the first pixel in its row
  int64_t c_gap;
  const float* residual;  // nullptr: none; rows without gaps
  int64_t residual_stride;
  float low, high;     // clamp: exact for identity, relu and relu6
  int64_t last_lanes;  // channels in the last block, 1..16; 1..8 for gemm_half
};
using GemmKernel = void (*)(const GemmArgs&);

// Runs of output pixels of one 16-channel block, one below the other: depthwise, or grouped with group width 8.
struct SpatialArgs {
  const float* const* rows;  // kernel_h pointers to the first input pixel of a run; nullptr: a row of zeros
  int64_t runs;              // of `tile` pixels
  int64_t rows_step;         // pointers between the rows of one run and the next
  int64_t out_row;           // floats between the outputs of one run and the next
  int64_t in_offset;         // floats from there
  int64_t in_stride;         // floats between input pixels
  const float* weights;      // depthwise [kh][kw][16], group width 8 [kh][kw][8][16]
  const float* bias;         // 16 floats
  float* out;
  int64_t out_stride;
  int64_t lanes;                                 // channels stored, 1..16
  int64_t kernel_h, kernel_w, stride, dilation;  // horizontal stride and dilation; read by the generic kernels only
  float low, high;
};
using SpatialKernel = void (*)(const SpatialArgs&);

// Widens pixels of one channel block: out[p][lane] = in[p * in_stride + lane], zeros beyond lanes.
struct GatherArgs {
  const void* in;
  int64_t in_stride;
  float* out;
  int64_t pixels;
  int64_t lanes;
};
using GatherKernel = void (*)(const GatherArgs&);

// out[p][c] = activation(in[p][c]) + residual[p][c], from fp32 blocks to NHWC storage.
struct FinishArgs {
  const float* in;
  int64_t in_stride, in_block;
  void* out;
  int64_t out_stride;
  const void* residual;  // nullptr: none
  int64_t residual_stride;
  int64_t pixels;
  int64_t channels;
  Activation activation;
};
using FinishKernel = void (*)(const FinishArgs&);

using WidenKernel = void (*)(const void* in, float* out, int64_t count);
using ActivateKernel = void (*)(float* values, int64_t blocks, Activation);
// values[p][c] = (values[p][c] - mean) / sqrt(variance + epsilon) [* weight[c] + bias[c]], in place; mean and variance
// are those of a pixel's channels.
struct NormalizeArgs {
  float* values;
  int64_t stride;
  int64_t pixels;
  int64_t channels;
  float epsilon;
  const float* weight;  // padded to whole blocks; nullptr: neither weight nor bias
  const float* bias;
};
using NormalizeKernel = void (*)(const NormalizeArgs&);

using SumKernel = void (*)(const float* in, int64_t pixels, float* sum);
using ScaleKernel = void (*)(float* values, int64_t pixels, const float* scale);
// out[r][lane] = in[r][lane] * factors[r].
using RescaleKernel = void (*)(const float* in, int64_t rows, const float* factors, float* out);

constexpr int kTileWidths[] = {14, 8, 7, 4, 2, 1};
constexpr int kTileWidthCount = 6;

struct SpatialFamily {
  SpatialKernel special[3][2][kTileWidthCount];  // kernel 3, 5, 7; stride 1, 2; a width of kTileWidths
  SpatialKernel generic[kTileWidthCount];
};

enum class Storage : int { kFloat32, kBFloat16, kFloat16 };
constexpr int kStorageCount = 3;

struct KernelTable {
  const char* isa;
  GemmKernel gemm[kMaxGemmBlocks][kMaxGemmRows];  // nullptr where it does not fit the registers
  GemmKernel gemm_half[kMaxGemmRows];             // one block of at most 8 channels
  SpatialFamily depthwise;
  SpatialFamily grouped8;
  GatherKernel gather[kStorageCount];
  FinishKernel finish[kStorageCount];
  WidenKernel widen[kStorageCount];
  ActivateKernel activate;
  SumKernel sum;
  ScaleKernel scale;
  RescaleKernel rescale;
  NormalizeKernel normalize;
};

// One of these per instruction set, filled from kernels.inc.
const KernelTable* portable_kernels();
const KernelTable* avx2_kernels();
const KernelTable* avx512_kernels();
const KernelTable* avx512fp16_kernels();

}  // namespace convfirst
