// Reads a chain's program. Every step is [kind, in, residual, ...]; convfirst_ext/ops/chain.py writes them.
#include "chain_program.h"

#include <algorithm>
#include <cstring>

#include "fused_block_op.h"

namespace convfirst {
namespace {

enum StepKind : int64_t { kConvolution, kFusedBlock, kGlobalPool, kLayerNorm, kConvNextBlock };

class Reader {
 public:
  Reader(const std::vector<Tensor>& tensors, const std::vector<int64_t>& program)
      : tensors_(tensors), program_(program) {}

  bool at_end() const { return next_int_ == program_.size(); }
  bool used_all_tensors() const { return next_tensor_ == tensors_.size(); }

  int64_t integer() {
    STD_TORCH_CHECK(next_int_ < program_.size(), "program must not end inside a step.");
    return program_[next_int_++];
  }
  int64_t integer_below(int64_t end, const char* name) {
    const int64_t value = integer();
    STD_TORCH_CHECK(value >= 0 && value < end, "program must have a ", name, " of 0 to ", end - 1, ", but has ", value,
                    ".");
    return value;
  }
  int64_t count(const char* name) {
    const int64_t value = integer();
    STD_TORCH_CHECK(value > 0, "program must have ", name, " > 0, but has ", value, ".");
    return value;
  }
  Activation activation() { return static_cast<Activation>(integer_below(kActivationCount, "activation")); }
  float real() {
    const auto bits = static_cast<uint32_t>(integer());
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }
  const Tensor& tensor() {
    STD_TORCH_CHECK(next_tensor_ < tensors_.size(), "tensors must be one for each weight and bias of the program.");
    return tensors_[next_tensor_++];
  }
  const float* floats(const char* name, int64_t count) { return view_floats(tensor(), name, count); }

  // [stride, dilation, same, left, right, top, bottom]; 'same' computes the padding from the input.
  Window window(int64_t kernel_h, int64_t kernel_w, const ImageView& in) {
    const std::vector<int64_t> stride = {integer(), integer()}, dilation = {integer(), integer()};
    const bool same = integer() != 0;
    std::vector<int64_t> padding = {integer(), integer(), integer(), integer()};
    if (same) {
      const int64_t columns = same_padding(in.w, kernel_w, stride[1], dilation[1]);
      const int64_t rows = same_padding(in.h, kernel_h, stride[0], dilation[0]);
      padding = {columns / 2, columns - columns / 2, rows / 2, rows - rows / 2};
    }
    return window_of(kernel_h, kernel_w, stride, padding, dilation);
  }

 private:
  // As many outputs as ceil(size / stride); the odd pixel goes behind.
  static int64_t same_padding(int64_t size, int64_t kernel, int64_t stride, int64_t dilation) {
    return std::max<int64_t>(0, (ceil_div(size, stride) - 1) * stride + dilation * (kernel - 1) + 1 - size);
  }

  const std::vector<Tensor>& tensors_;
  const std::vector<int64_t>& program_;
  size_t next_tensor_ = 0, next_int_ = 0;
};

int64_t padded(int64_t channels) { return ceil_div(channels, kLanes) * kLanes; }

Convolution read_convolution(Reader& reader, const ImageView& in) {
  static const ConvolutionKind* const kKinds[] = {&kDepthwise, &kGrouped, &kPointwise, &kDense};
  const ConvolutionKind& kind = *kKinds[reader.integer_below(4, "convolution")];
  const int64_t out_channels = reader.count("out_channels"), groups = reader.count("groups");
  const Tensor& weight = reader.tensor();
  const WeightShape shape = packed_shape(weight, out_channels);
  const Window window = reader.window(shape.kernel_h, shape.kernel_w, in);
  Convolution conv = describe_convolution(kind, in, shape, window, groups);
  conv.weights = view_floats(weight, "weight", shape.packed_floats());
  conv.bias = reader.floats("bias", shape.blocks() * kLanes);
  conv.activation = reader.activation();
  return conv;
}

FusedBlock read_fused_block(Reader& reader, const ImageView& in) {
  PackedBlock p;
  const bool expands = reader.integer() != 0, squeezes = reader.integer() != 0;
  p.hidden_channels = reader.count("hidden_channels"), p.out_channels = reader.count("out_channels");
  p.groups = reader.count("groups");
  if (expands) p.expand_weight = reader.tensor(), p.expand_bias = reader.tensor();
  p.conv_weight = reader.tensor(), p.conv_bias = reader.tensor();
  p.project_weight = reader.tensor(), p.project_bias = reader.tensor();
  if (squeezes) {
    p.se.reduce_weight = reader.tensor(), p.se.reduce_bias = reader.tensor();
    p.se.expand_weight = reader.tensor(), p.se.expand_bias = reader.tensor();
  }
  STD_TORCH_CHECK(p.conv_weight.dim() == 5, "conv_weight must be packed by pack_weight.");
  const Window w = reader.window(p.conv_weight.size(1), p.conv_weight.size(2), in);
  p.stride = {w.stride_h, w.stride_w}, p.dilation = {w.dilation_h, w.dilation_w};
  p.padding = {w.left, w.right, w.top, w.bottom};
  p.activation = reader.activation(), p.output_activation = reader.activation();
  p.se.channels = reader.integer();
  p.se.activation = reader.activation(), p.se.gate = reader.activation();
  return describe_block(p, in);
}

LayerNorm read_layer_norm(Reader& reader, const ImageView& in) {
  LayerNorm norm{};
  norm.in = in;
  norm.weight = reader.floats("weight", padded(in.c));
  norm.bias = reader.floats("bias", padded(in.c));
  norm.epsilon = reader.real();
  return norm;
}

ConvNextBlock read_convnext_block(Reader& reader, const ImageView& in) {
  ConvNextBlock block{};
  const int64_t hidden = reader.count("hidden_channels"), out_channels = reader.count("out_channels");
  const Tensor& weight = reader.tensor();
  const WeightShape shape = packed_shape(weight, in.c);
  block.conv = describe_convolution(kDepthwise, in, shape, reader.window(shape.kernel_h, shape.kernel_w, in), in.c);
  block.conv.weights = view_floats(weight, "weight", shape.packed_floats());
  block.conv.bias = reader.floats("bias", padded(in.c));
  block.hidden = hidden, block.out_c = out_channels;
  block.expand_weights = reader.floats("expand_weight", padded(hidden) * in.c);
  block.expand_bias = reader.floats("expand_bias", padded(hidden));
  block.project_weights = reader.floats("project_weight", padded(out_channels) * hidden);
  block.project_bias = reader.floats("project_bias", padded(out_channels));
  block.activation = reader.activation();
  block.epsilon = reader.real();
  return block;
}

ImageView shape_of(const ImageView& in, int64_t c, int64_t h, int64_t w) {
  return {nullptr, in.storage, in.n, h, w, c, false};
}

ChainStep read_step(Reader& reader, const ImageView& input, const std::vector<ChainStep>& before) {
  ChainStep step{};
  const int64_t kind = reader.integer_below(5, "kind"), values = static_cast<int64_t>(before.size()) + 1;
  step.in = reader.integer_below(values, "value");
  step.residual = reader.integer();
  STD_TORCH_CHECK(step.residual >= -1 && step.residual < values, "program must add an earlier value, but adds ",
                  step.residual, ".");
  const ImageView in = step.in == 0 ? input : before[step.in - 1].out;
  if (kind == kConvolution) {
    const Convolution conv = read_convolution(reader, in);
    step.work = conv, step.out = shape_of(in, conv.out_c, conv.out_h, conv.out_w);
  } else if (kind == kFusedBlock) {
    const FusedBlock block = read_fused_block(reader, in);
    step.work = block, step.out = shape_of(in, block.out_c, block.out_h, block.out_w);
  } else if (kind == kGlobalPool) {
    step.work = GlobalPool{in, nullptr}, step.out = shape_of(in, in.c, 1, 1);
  } else if (kind == kLayerNorm) {
    step.work = read_layer_norm(reader, in), step.out = shape_of(in, in.c, in.h, in.w);
  } else {
    const ConvNextBlock block = read_convnext_block(reader, in);
    step.work = block, step.out = shape_of(in, block.out_c, block.conv.out_h, block.conv.out_w);
  }
  const bool dense = kind == kConvolution && std::get<Convolution>(step.work).reads_planar();
  STD_TORCH_CHECK(!in.planar || dense, "input must be dense in channels_last order.");
  return step;
}

void check_residual(const ChainStep& step, const ImageView& input, const std::vector<ChainStep>& before) {
  if (step.residual < 0) return;
  const ImageView& added = step.residual == 0 ? input : before[step.residual - 1].out;
  const bool adds = !std::holds_alternative<GlobalPool>(step.work) && !std::holds_alternative<LayerNorm>(step.work);
  STD_TORCH_CHECK(adds && !added.planar && added.h == step.out.h && added.w == step.out.w && added.c == step.out.c,
                  "residual must have the shape of the output.");
}

}  // namespace

std::vector<ChainStep> read_chain(const ImageView& input, const std::vector<Tensor>& tensors,
                                  const std::vector<int64_t>& program) {
  Reader reader(tensors, program);
  std::vector<ChainStep> steps;
  while (!reader.at_end()) {
    steps.push_back(read_step(reader, input, steps));
    const ChainStep step = steps.back();
    steps.pop_back();
    check_residual(step, input, steps);
    steps.push_back(step);
  }
  STD_TORCH_CHECK(!steps.empty(), "program must have at least one step.");
  STD_TORCH_CHECK(reader.used_all_tensors(), "tensors must be one for each weight and bias of the program.");
  return steps;
}

}  // namespace convfirst
