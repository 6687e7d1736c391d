// Turns packed tensors into a FusedBlock after checking that every one has the size its role asks for.
#include "fused_block_op.h"

#include "kept_memory.h"
#include "spatial_run.h"

namespace convfirst {
namespace {

int64_t padded(int64_t channels) { return ceil_div(channels, kLanes) * kLanes; }

void set_convolution(const PackedBlock& p, FusedBlock<float>& block) {
  const Tensor& weight = p.conv_weight;
  STD_TORCH_CHECK(weight.dim() == 5 && weight.size(4) == kLanes, "conv_weight must be packed by pack_weight.");
  const Window window = window_of(weight.size(1), weight.size(2), p.stride, p.padding, p.dilation);
  set_spatial(block, window, p.groups, p.expand_weight.has_value());
  const int64_t width = block.grouped8 ? 8 : 1;
  STD_TORCH_CHECK(weight.size(3) == width, "conv_weight must have ", width, " input channels a group, but has ",
                  weight.size(3), ".");
  block.conv_weights =
      view_floats(weight, "conv_weight", padded(block.hidden) * weight.size(1) * weight.size(2) * width);
  block.conv_bias = view_floats(p.conv_bias, "conv_bias", padded(block.hidden));
}

void set_expansion(const PackedBlock& p, FusedBlock<float>& block) {
  STD_TORCH_CHECK(p.expand_weight.has_value() == p.expand_bias.has_value(),
                  "expand_bias must be given exactly when expand_weight is.");
  if (!p.expand_weight) return;
  block.expand_weights = view_floats(*p.expand_weight, "expand_weight", padded(block.hidden) * block.in.c);
  block.expand_bias = view_floats(*p.expand_bias, "expand_bias", padded(block.hidden));
}

void set_squeeze_excite(const PackedSqueezeExcite& p, FusedBlock<float>& block) {
  if (!p.reduce_weight) return;
  STD_TORCH_CHECK(p.reduce_bias && p.expand_weight && p.expand_bias && p.channels > 0,
                  "se_reduce_bias, se_expand_weight, se_expand_bias and se_channels must come with se_reduce_weight.");
  SqueezeExcite<float>& se = block.se;
  se.squeezed = p.channels;
  se.reduce_weights = view_floats(*p.reduce_weight, "se_reduce_weight", padded(p.channels) * block.hidden);
  se.reduce_bias = view_floats(*p.reduce_bias, "se_reduce_bias", padded(p.channels));
  se.expand_weights = view_floats(*p.expand_weight, "se_expand_weight", padded(block.hidden) * p.channels);
  se.expand_bias = view_floats(*p.expand_bias, "se_expand_bias", padded(block.hidden));
  se.activation = p.activation;
  se.gate = p.gate;
}

FusedBlock<float> describe_block(const PackedBlock& p, const ImageView& in) {
  FusedBlock<float> block;
  block.in = in;
  block.hidden = p.hidden_channels;
  block.out_c = p.out_channels;
  set_convolution(p, block);
  set_expansion(p, block);
  set_squeeze_excite(p.se, block);
  block.project_weights = view_floats(p.project_weight, "project_weight", padded(block.out_c) * block.hidden);
  block.project_bias = view_floats(p.project_bias, "project_bias", padded(block.out_c));
  block.activation = p.activation;
  block.output_activation = p.output_activation;
  return block;
}

}  // namespace

template <class E>
void set_spatial(FusedBlock<E>& block, const Window& window, int64_t groups, bool expands) {
  STD_TORCH_CHECK(block.in.c > 0 && block.hidden > 0 && block.out_c > 0,
                  "input, hidden_channels and out_channels must have at least one channel.");
  const bool depthwise = groups == block.hidden;
  STD_TORCH_CHECK(depthwise || groups * 8 == block.hidden,
                  "groups must be hidden_channels or hidden_channels / 8, but is ", groups, " of ", block.hidden, ".");
  STD_TORCH_CHECK(expands || block.hidden == block.in.c, "hidden_channels must be the ", block.in.c,
                  " input channels where there is no expand_weight, but is ", block.hidden, ".");
  STD_TORCH_CHECK(window.kernel_h <= kMaxKernelRows, "conv_weight must have at most ", kMaxKernelRows, " rows.");
  check_output(window, block.in.h, block.in.w);
  const int64_t products = window.kernel_h * window.kernel_w * (depthwise ? 1 : 8);
  STD_TORCH_CHECK(kLanesOf<E> == kLanes || products <= kMostHalfProducts, "conv_weight must have at most ",
                  kMostHalfProducts, " products an output in fp16 arithmetic, but has ", products, ".");
  block.grouped8 = !depthwise;
  block.window = window;
  block.out_h = window.out_h(block.in.h);
  block.out_w = window.out_w(block.in.w);
}

template void set_spatial(FusedBlock<float>&, const Window&, int64_t, bool);
template void set_spatial(FusedBlock<Half>&, const Window&, int64_t, bool);

Tensor run_packed_block(const Tensor& input, const std::optional<Tensor>& residual, const PackedBlock& p) {
  FusedBlock<float> block = describe_block(p, view_nhwc(input, "input"));
  Tensor out = empty_result(input, block.in.n, block.out_c, block.out_h, block.out_w);
  if (residual) block.residual = view_like(*residual, "residual", out);
  block.out = out.mutable_data_ptr();
  if (out.numel() > 0) run_fused_block(block);
  return out;
}

}  // namespace convfirst
