// Direct convolution over all channels: the stem, and small dense layers.
#include "convolution_op.h"

namespace convfirst {
namespace {

void check(const Convolution& conv) {
  STD_TORCH_CHECK(conv.groups == 1, "groups must be 1, but is ", conv.groups, ".");
}

constexpr ConvolutionKind kKind = {check, run_direct};

CONVFIRST_REGISTER_CONVOLUTION(dense_conv2d, kKind)

}  // namespace
}  // namespace convfirst
