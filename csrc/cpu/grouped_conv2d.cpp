// Grouped convolution with group width 8 (ConvFirst, MBConv) or a multiple of 16.
#include "convolution_op.h"

namespace convfirst {
namespace {

void check(const ConvolutionShape& conv, int64_t lanes) {
  const int64_t width = conv.group_in();
  const bool square = conv.out_c / conv.groups == width;
  STD_TORCH_CHECK(square && (width == 8 || width % lanes == 0), "groups must leave 8 or a multiple of ", lanes,
                  " channels a group on both sides, but leaves ", width, " and ", conv.out_c / conv.groups, ".");
  if (width == 8) check_half_products(conv, lanes);
}

template <class E>
void run_grouped(const Convolution<E>& conv) {
  conv.group_in() == 8 ? run_spatial(conv) : run_direct(conv);
}

}  // namespace

const ConvolutionKind kGrouped = {check, run_grouped<float>, run_grouped<Half>};

namespace {

CONVFIRST_REGISTER_CONVOLUTION(grouped_conv2d, kGrouped)

}  // namespace
}  // namespace convfirst
