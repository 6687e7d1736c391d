// Depthwise convolution with any channel multiplier: one input channel a group.
#include "convolution_op.h"

namespace convfirst {
namespace {

void check(const ConvolutionShape& conv, int64_t lanes) {
  STD_TORCH_CHECK(conv.groups == conv.in.c, "groups must equal the ", conv.in.c, " input channels, but is ",
                  conv.groups, ".");
  check_half_products(conv, lanes);
}

}  // namespace

const ConvolutionKind kDepthwise = {check, run_spatial<float>, run_spatial<Half>};

namespace {

CONVFIRST_REGISTER_CONVOLUTION(depthwise_conv2d, kDepthwise)

}  // namespace
}  // namespace convfirst
