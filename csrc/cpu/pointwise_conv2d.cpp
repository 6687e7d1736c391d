// 1x1 convolution, a matrix product over all pixels.
#include "convolution_op.h"

namespace convfirst {
namespace {

void check(const ConvolutionShape& conv, int64_t) {
  STD_TORCH_CHECK(conv.groups == 1 && conv.window.is_pointwise(),
                  "weight, stride, padding and groups must be those of a 1x1 convolution.");
}

}  // namespace

const ConvolutionKind kPointwise = {check, run_direct<float>, run_direct<Half>};

namespace {

CONVFIRST_REGISTER_CONVOLUTION(pointwise_conv2d, kPointwise)

}  // namespace
}  // namespace convfirst
