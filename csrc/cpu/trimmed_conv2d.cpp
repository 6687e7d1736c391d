// Convolution whose filter is trimmed to the taps that meet the image (ConvV2 of C-K-S, arXiv 2306.15951).
#include "convolution_op.h"
#include "skipping_conv.h"

namespace convfirst {
namespace {

void check(const ConvolutionShape& conv, int64_t lanes) {
  const int64_t group_out = conv.out_c / conv.groups;
  STD_TORCH_CHECK(lanes == kLanes, "weight must be float32: a trimmed convolution computes in fp32.");
  STD_TORCH_CHECK(
      conv.groups == 1 || conv.groups == conv.in.c || group_out % kLanes == 0,
      "groups must be 1, the input channels, or leave a multiple of 16 output channels a group, but leaves ", group_out,
      ".");
}

void run_trimmed(const Convolution<float>& conv) {
  const Window& w = conv.window;
  SkippingConv skipping{conv.in, conv.groups, conv.out_c,   conv.out_h, conv.out_w,    w.kernel_h, w.kernel_w,
                        {},      {},          conv.weights, conv.bias,  conv.residual, conv.out,   conv.activation};
  skipping.rows = convolution_runs({conv.in.h, conv.out_h, w.kernel_h, w.stride_h, w.dilation_h, w.top});
  skipping.columns = convolution_runs({conv.in.w, conv.out_w, w.kernel_w, w.stride_w, w.dilation_w, w.left});
  run_skipping(skipping);
}

}  // namespace

const ConvolutionKind kTrimmed = {check, run_trimmed, nullptr};

namespace {

CONVFIRST_REGISTER_CONVOLUTION(trimmed_conv2d, kTrimmed)

}  // namespace
}  // namespace convfirst
