// Grouped convolution of CUDA tensors, group width 8 and 16.
#include "convolution_op.h"
#include "grouped_conv2d.h"

namespace convfirst::cuda {
namespace {

constexpr ConvolutionKind kGrouped = {grouped_reason_against, grouped_forward};

CONVFIRST_REGISTER_CUDA_CONVOLUTION(grouped_conv2d, kGrouped)

}  // namespace
}  // namespace convfirst::cuda
