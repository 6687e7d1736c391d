// Launches the kernel of an MBConv block, one cluster an image.
#include "mbconv.cuh"

#include "dispatch.cuh"

namespace convfirst::cuda {

const char* mbconv_reason_against(const MBConvBlock& block) {
  constexpr int kMostBlocks = 16;  // of a cluster
  if (block.storage == Storage::kFloat32) return "input must have dtype float16 or bfloat16 for tensor cores";
  if (block.c % 8 || block.c < 8 || block.c > kMostChannels) {
    return "input must have a multiple of 8 channels up to 128";
  }
  if (block.h * block.w > kMostPixels) return "input must have at most 256 pixels";
  if (block.hidden % kSlice || block.hidden < kSlice || block.hidden > kMostBlocks * kSlice) {
    return "expand_weight must have a multiple of 64 hidden channels up to 1024";
  }
  if (block.squeezed > kMostSqueezed) return "se_reduce_weight must have at most 256 output channels";
  for (const Buffer& buffer : {block.input, block.output, block.expand_weight, block.project_weight}) {
    if (!is_aligned(buffer)) return "input and weights must start at a multiple of 16 bytes";
  }
  return nullptr;
}

const char* mbconv_forward(const MBConvBlock& block, Stream stream) {
  const char* reason = mbconv_reason_against(block);
  if (reason) return reason;
  return for_half_storage(block.storage, [&](auto type) {
    const int blocks = block.hidden / kSlice;
    const dim3 grid(static_cast<unsigned>(block.n) * static_cast<unsigned>(blocks), 1, 1);
    const LaunchShape shape = {grid, kMBThreads, MBConvLayout(block.c, block.h, block.w).total, blocks};
    return launch(mbconv_kernel<decltype(type)>, shape, block, stream);
  });
}

}  // namespace convfirst::cuda
