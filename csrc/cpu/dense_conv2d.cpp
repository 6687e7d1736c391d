// Direct convolution over all channels: the stem, and small dense layers.
#include "convolution_op.h"

namespace convfirst {
namespace {

void check(const ConvolutionShape& conv, int64_t) {
  STD_TORCH_CHECK(conv.groups == 1, "groups must be 1, but is ", conv.groups, ".");
}

}  // namespace

const ConvolutionKind kDense = {check, run_direct<float>, run_direct<Half>};

namespace {

CONVFIRST_REGISTER_CONVOLUTION(dense_conv2d, kDense)

}  // namespace
}  // namespace convfirst
