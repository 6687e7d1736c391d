// Depthwise convolution of CUDA tensors with any channel multiplier: one input channel a group.
#include "convolution_op.h"
#include "depthwise_conv2d.h"

namespace convfirst::cuda {
namespace {

const char* reason_against(const Convolution& conv) {
  return conv.weights.group_in == 1 ? nullptr : "a depthwise convolution must have one input channel a group";
}

constexpr ConvolutionKind kDepthwise = {reason_against, depthwise_forward};

CONVFIRST_REGISTER_CUDA_CONVOLUTION(depthwise_conv2d, kDepthwise)

}  // namespace
}  // namespace convfirst::cuda
