// Inverted residuals on CUDA in three passes, fp16 and bf16: for images of any size, with or without squeeze-excite,
// sm_80 and newer. The launcher gives nullptr, or what went wrong.
#pragma once

#include "device/launch.cuh"
#include "window.h"

namespace convfirst::cuda {

enum class HiddenKind : int { kDepthwise3, kDepthwise5, kGrouped3 };

// How the first pass cuts images: a block takes so many whole images, or a tile of one.
struct HiddenTile {
  int images, rows, columns;    // of outputs
  int tile_rows, tile_columns;  // tiles of an image
  __host__ __device__ int tiles() const { return tile_rows * tile_columns; }
};

// h = activation(conv(activation(expand(input)))), blurred and subsampled by 2 where `blurs`, and its sums over the
// pixels of each tile. conv is depthwise, 3x3 or 5x5, with stride 1 or 2, or 3x3 of group width 8 with stride 1.
struct HiddenPass {
  Storage storage;
  HiddenKind kind;
  bool blurs;
  int n, h, w, c, hidden;
  int stride, top, left;  // of the convolution
  int conv_h, conv_w;     // its output
  int p, q;               // what is stored
  Activation activation;
  Buffer input, output;               // (n, h, w, c), (n, p, q, hidden)
  Buffer expand_weight, expand_bias;  // (hidden, c), fp32; null without expansion, where hidden = c
  Buffer conv_weight, conv_bias;      // (hidden, 1 or 8, K, K), fp32 or null
  Buffer sums;                        // fp32 (n, tiles, hidden), or null
  HiddenTile tile;
};

// gate = gate(excite(activation(reduce(mean)))), fp32.
struct ExcitePass {
  int n, tiles, pixels, hidden, squeezed;
  Activation activation, gate_activation;
  Buffer sums, gate;                    // (n, tiles, hidden), (n, hidden)
  Buffer reduce_weight, excite_weight;  // (squeezed, hidden), (hidden, squeezed)
  Buffer reduce_bias, excite_bias;      // may be null
};

// output = activation(weight (gate * input) + bias) + residual.
struct ProductPass {
  Storage storage;
  int64_t rows;  // pixels of all images
  int pixels;    // of an image
  int inputs, outputs;
  Activation activation;
  Buffer input, output, weight;  // (rows, inputs), (rows, outputs), (outputs, inputs)
  Buffer bias, gate, residual;   // fp32, fp32 (n, inputs), as output; may be null
};

// Why no kernel takes this block, or nullptr.
const char* hidden_reason_against(const HiddenPass& pass);
const char* product_reason_against(const ProductPass& pass);

// The tiles that a batch of this size should be cut into; fills `tile`.
void plan_hidden(HiddenPass& pass);

// Images of a part of the batch, whose hidden tensor stays in the L2 cache between the passes.
int images_at_a_time(const HiddenPass& pass);

const char* run_hidden(const HiddenPass& pass, Stream stream);
const char* run_excite(const ExcitePass& pass, Stream stream);
const char* run_product(const ProductPass& pass, Stream stream);

}  // namespace convfirst::cuda
