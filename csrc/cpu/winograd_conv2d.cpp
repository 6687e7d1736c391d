// 3x3 convolution of stride 1 by Winograd's minimal filtering.
#include "convolution_op.h"
#include "parallel.h"
#include "winograd.h"

namespace convfirst {
namespace {

// Fewer tiles do not make up for the transform of the weights in the call.
constexpr int64_t kLeastTiles = 48;

void check(const ConvolutionShape& conv, int64_t lanes) {
  const Window& w = conv.window;
  const bool plain = w.stride_h == 1 && w.stride_w == 1 && w.dilation_h == 1 && w.dilation_w == 1;
  STD_TORCH_CHECK(lanes == kLanes, "weight must be float32: a Winograd convolution computes in fp32.");
  STD_TORCH_CHECK(plain && conv.groups == 1 && w.kernel_h == 3 && w.kernel_w == 3,
                  "stride, dilation and groups must be 1 and the kernel 3x3 in a Winograd convolution.");
}

Tensor winograd_conv2d_plain(const Tensor input, const Tensor weight, const OptionalTensor bias, const Ints stride,
                             const Ints padding, const Ints dilation, int64_t groups) {
  const WeightShape plain = weight_shape(weight);
  const WeightShape shape{plain.out_c, plain.group_in, 6, 6};
  const Window window = window_of(plain.kernel_h, plain.kernel_w, stride, padding, dilation);
  Convolution<float> conv = describe_convolution<float>(kWinograd4, view_nhwc(input, "input"), shape, window, groups);
  const int64_t tiles = conv.in.n * ceil_div(conv.out_h, 4) * ceil_div(conv.out_w, 4);
  const bool single = conv.in.storage == Storage::kFloat32 && storage_of(weight, "weight") == Storage::kFloat32;
  if (tiles < kLeastTiles || !single) {
    return run_plain(kDense, input, weight, bias, stride, padding, dilation, groups);
  }
  float* packed = weight_scratch(shape.packed_floats());
  transform_weight(weight, packed);
  conv.weights = packed;
  return run_unpacked(conv, input, bias);
}

Tensor winograd_conv2d_packed(const Tensor input, const Tensor weight, const Tensor bias, const OptionalTensor residual,
                              const Ints stride, const Ints padding, const Ints dilation, int64_t groups,
                              int64_t out_channels, const std::string activation) {
  STD_TORCH_CHECK(weight.dim() == 5 && weight.size(1) == weight.size(2) && (weight.size(1) == 4 || weight.size(1) == 6),
                  "weight must be packed of a transformed weight of 4x4 or 6x6.");
  const ConvolutionKind& kind = weight.size(1) == 4 ? kWinograd2 : kWinograd4;
  return run_packed(kind, input, weight, bias, residual, stride, padding, dilation, groups, out_channels, activation);
}

}  // namespace

const ConvolutionKind kWinograd2 = {check, run_winograd<2>, nullptr, 1};
const ConvolutionKind kWinograd4 = {check, run_winograd<4>, nullptr, 3};

STABLE_TORCH_LIBRARY_IMPL(convfirst, CPU, m) {
  m.impl("winograd_conv2d", TORCH_BOX(&winograd_conv2d_plain));
  m.impl("winograd_conv2d_packed", TORCH_BOX(&winograd_conv2d_packed));
}

}  // namespace convfirst
