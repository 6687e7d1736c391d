// Launchers of the convolutions with a C interface, so that a library of a single, broken kernel can be called.
#include "cuda/depthwise_conv2d.h"
#include "cuda/grouped_conv2d.h"

namespace {

// A square kernel at stride 1 with half of it as padding, in torch's layout.
convfirst::cuda::Convolution describe(const convfirst::cuda::Buffer* buffers, const int* size, int width) {
  using namespace convfirst::cuda;
  const int n = size[0], c = size[1], h = size[2], w = size[3], kernel = size[4];
  const Storage storage = width == 1 ? Storage::kFloat32 : Storage::kFloat16;
  const Window window = {kernel, kernel, 1, 1, 1, 1, kernel / 2, kernel / 2};
  const Weights weights = {buffers[1], false, width, kernel * kernel};
  return {storage, window, n, h, w, c, h, w, c, weights, buffers[0], buffers[2], {}, {}, Activation::kIdentity};
}

}  // namespace

#ifndef GROUPED_ONLY
extern "C" __attribute__((visibility("default")))
const char* run_depthwise(const convfirst::cuda::Buffer* buffers, const int* size) {
  return convfirst::cuda::depthwise_forward(describe(buffers, size, 1), nullptr);
}
#endif

#ifndef DEPTHWISE_ONLY
extern "C" __attribute__((visibility("default")))
const char* run_grouped(const convfirst::cuda::Buffer* buffers, const int* size) {
  return convfirst::cuda::grouped_forward(describe(buffers, size, 8), nullptr);
}
#endif
