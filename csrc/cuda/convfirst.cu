// Chooses and launches the kernel of a ConvFirst block.
#include "convfirst.cuh"

#include "dispatch.cuh"

namespace convfirst::cuda {
namespace {

template <class T, int kBlocks>
const char* launch_block(const ConvFirstBlock& block, Stream stream) {
  using Shape = ConvFirstShape<kBlocks>;
  const int64_t tiles = int64_t{block.n} * ceil_div(block.h, Shape::kRows) * ceil_div(block.w, kBlockColumns);
  const LaunchShape shape = {dim3(static_cast<unsigned>(tiles), 1, 1), kBlockThreads, Shape::kBytes, 1};
  return launch(convfirst_kernel<T, kBlocks>, shape, block, stream);
}

}  // namespace

const char* convfirst_reason_against(const ConvFirstBlock& block) {
  if (block.storage == Storage::kFloat32) return "input must have dtype float16 or bfloat16 for tensor cores";
  if (block.c % kGroup || block.c < kGroup || block.c > 128)
    return "input must have a multiple of 8 channels up to 128";
  if (block.hidden % 8 || block.hidden < 8) return "expand_weight must have a multiple of 8 hidden channels";
  for (const Buffer& buffer : {block.input, block.output, block.expand_weight, block.project_weight}) {
    if (!is_aligned(buffer)) return "input and weights must start at a multiple of 16 bytes";
  }
  return nullptr;
}

const char* convfirst_forward(const ConvFirstBlock& block, Stream stream) {
  const char* reason = convfirst_reason_against(block);
  if (reason) return reason;
  return for_half_storage(block.storage, [&](auto type) {
    using T = decltype(type);
    switch (ceil_div(block.c, 16)) {
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
