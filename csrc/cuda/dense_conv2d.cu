// Launches the stem's kernel.
#include "dense_conv2d.cuh"

#include "dispatch.cuh"

namespace convfirst::cuda {
namespace {

constexpr int kMostOutputs = 256;  // whose weights fit into the shared memory that every GPU has

}  // namespace

const char* dense_reason_against(const Convolution& conv) {
  if (conv.c != kStemInputs || conv.weights.group_in != kStemInputs ||
      !conv.window.is_square(kStemKernel, kStemStride)) {
    return "a dense convolution must be 3x3 with stride 2, without dilation, of 3 channels";
  }
  if (conv.k % 8 || conv.k > kMostOutputs) return "weight must have a multiple of 8 output channels up to 256";
  return is_aligned(conv.output) && is_aligned(conv.residual) ? nullptr
                                                              : "residual must start at a multiple of 16 bytes";
}

const char* dense_forward(const Convolution& conv, Stream stream) {
  const char* reason = dense_reason_against(conv);
  if (reason) return reason;
  return for_storage(conv.storage, [&](auto type) {
    const StemTask task = {conv, ceil_div(conv.p, kStemRows), ceil_div(conv.q, kStemColumns)};
    const int64_t tiles = int64_t{conv.n} * task.tile_rows * task.tile_columns;
    const int64_t shared = int64_t{4} * (kStemProducts * conv.k + kSeenRows * kSeenRow);
    const LaunchShape shape = {dim3(static_cast<unsigned>(tiles), 1, 1), kStemThreads, shared, 1};
    return launch(stem_kernel<decltype(type)>, shape, task, stream);
  });
}

}  // namespace convfirst::cuda
