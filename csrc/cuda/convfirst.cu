// Chooses and launches the kernel of a ConvFirst block.
#include "convfirst.cuh"

#include "convfirst_blur.cuh"
#include "dispatch.cuh"

namespace convfirst::cuda {
namespace {

constexpr int kMostChannelBlocks = 8;  // of 16

template <class T, int kBlocks>
const char* launch_block(const ConvFirstBlock& block, Stream stream) {
  const auto tiles = [&](int rows) {
    const int64_t count = int64_t{block.n} * ceil_div(block.out_h(), rows) * ceil_div(block.out_w(), kBlockColumns);
    return dim3(static_cast<unsigned>(count), 1, 1);
  };
  if (block.stride == 2) {
    using Shape = ConvFirstBlurShape<kBlocks>;
    return launch(convfirst_blur_kernel<T, kBlocks>, {tiles(Shape::kRows), kBlockThreads, Shape::kBytes, 1}, block,
                  stream);
  }
  using Shape = ConvFirstShape<kBlocks>;
  return launch(convfirst_kernel<T, kBlocks>, {tiles(Shape::kRows), kBlockThreads, Shape::kBytes, 1}, block, stream);
}

// Blocks of 16 channels that the expansion's inputs and the outputs need.
int blocks_of(const ConvFirstBlock& block) {
  return ceil_div(block.ffn.inputs > block.ffn.outputs ? block.ffn.inputs : block.ffn.outputs, 16);
}

}  // namespace

const char* convfirst_reason_against(const ConvFirstBlock& block) {
  if (block.storage == Storage::kFloat32) return "input must have dtype float16 or bfloat16 for tensor cores";
  if (block.c % kGroup || block.c < kGroup || blocks_of(block) > kMostChannelBlocks) {
    return block.stride == 1 ? "input must have a multiple of 8 channels up to 128"
                             : "input must have a multiple of 8 channels up to 64 where stride is 2";
  }
  if (block.ffn.outputs % 8) return "project_weight must have a multiple of 8 output channels up to 128";
  if (block.ffn.hidden % 8 || block.ffn.hidden < 8) return "expand_weight must have a multiple of 8 hidden channels";
  if (block.stride == 2 && (block.h < 2 || block.w < 2)) return "input must have 2 x 2 pixels where stride is 2";
  for (const Buffer& buffer : {block.input, block.output, block.ffn.expand_weight, block.ffn.project_weight}) {
    if (!is_aligned(buffer)) return "input and weights must start at a multiple of 16 bytes";
  }
  return nullptr;
}

const char* convfirst_forward(const ConvFirstBlock& block, Stream stream) {
  const char* reason = convfirst_reason_against(block);
  if (reason) return reason;
  return for_half_storage(block.storage, [&](auto type) {
    using T = decltype(type);
    switch (blocks_of(block)) {
      case 1: return launch_block<T, 1>(block, stream);
      case 2: return launch_block<T, 2>(block, stream);
      case 3: return launch_block<T, 3>(block, stream);
      case 4: return launch_block<T, 4>(block, stream);
      case 5:
      case 6: return launch_block<T, 6>(block, stream);
      default: return launch_block<T, 8>(block, stream);
    }
  });
}

}  // namespace convfirst::cuda
