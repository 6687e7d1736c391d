// Dense convolution of CUDA tensors of three channels.
#include "convolution_op.h"
#include "dense_conv2d.h"

namespace convfirst::cuda {
namespace {

constexpr ConvolutionKind kDense = {dense_reason_against, dense_forward};

CONVFIRST_REGISTER_CUDA_CONVOLUTION(dense_conv2d, kDense)

}  // namespace
}  // namespace convfirst::cuda
