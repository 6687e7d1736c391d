// Grouped convolution with group width 8 (ConvFirst, MBConv) or a multiple of 16.
#include "convolution_op.h"

namespace convfirst {
namespace {

void check(const Convolution& conv) {
  const int64_t width = conv.group_in();
  const bool square = conv.out_c / conv.groups == width;
  STD_TORCH_CHECK(square && (width == 8 || width % kLanes == 0),
                  "groups must leave 8 or a multiple of 16 channels a group on both sides, but leaves ", width, " and ",
                  conv.out_c / conv.groups, ".");
}

void run_grouped(const Convolution& conv) { conv.group_in() == 8 ? run_spatial(conv) : run_direct(conv); }

}  // namespace

const ConvolutionKind kGrouped = {check, run_grouped};

namespace {

CONVFIRST_REGISTER_CONVOLUTION(grouped_conv2d, kGrouped)

}  // namespace
}  // namespace convfirst
