// Launches the kernel of convolutions without padded and inserted zeros.
#include "skipping_conv.cuh"

#include "dispatch.cuh"

namespace convfirst::cuda {

const char* skipping_reason_against(const SkippingConv& conv) {
  if (conv.storage == Storage::kFloat32) return "input must have dtype float16 or bfloat16 for tensor cores";
  if (conv.c % 8 || conv.k % 8) return "input and output must have multiples of 8 channels";
  for (const Buffer& buffer : {conv.input, conv.weight, conv.output}) {
    if (!is_aligned(buffer)) return "input and weight must start at a multiple of 16 bytes";
  }
  return nullptr;
}

const char* skipping_forward(const SkippingConv& conv, Stream stream) {
  const char* reason = skipping_reason_against(conv);
  if (reason) return reason;
  return for_half_storage(conv.storage, [&](auto type) {
    const int64_t positions = int64_t{conv.p} * conv.q;
    const int64_t blocks = positions * ceil_div(conv.n, kSkipImages) * ceil_div(conv.k, kSkipOutputs);
    const LaunchShape shape = {dim3(static_cast<unsigned>(blocks), 1, 1), kSkipThreads, kSkipBytes, 1};
    return launch(skipping_kernel<decltype(type)>, shape, conv, stream);
  });
}

}  // namespace convfirst::cuda
