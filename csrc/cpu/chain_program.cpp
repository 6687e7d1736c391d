// Reads a chain's program. Every step is [kind, in, residual, ...]; convfirst_ext/ops/chain.py writes them.
#include "chain_program.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <iterator>

#include "fused_block_op.h"

namespace convfirst {
namespace {

enum StepKind : int64_t { kConvolution, kFusedBlock, kGlobalPool, kLayerNorm, kConvNextBlock, kBlurPool };

template <class E>
class Reader {
 public:
  Reader(const std::string& program, const Tensor& weights)
      : position_(program.c_str()), end_(position_ + program.size()), left_(weights.numel()) {
    STD_TORCH_CHECK(weights.is_cpu() && weights.dim() == 1 && weights.is_contiguous(),
                    "weights must be a contiguous CPU tensor of one dimension.");
    next_weight_ = static_cast<const E*>(weights.const_data_ptr());
    skip_spaces();
  }

  bool at_end() const { return position_ == end_; }
  bool used_all_weights() const { return left_ == 0; }

  int64_t integer() {
    char* after = nullptr;
    const int64_t value = std::strtoll(position_, &after, 10);
    STD_TORCH_CHECK(after != position_, "program must be whole numbers with spaces between and not end inside a step.");
    position_ = after;
    skip_spaces();
    return value;
  }
  int64_t integer_below(int64_t end, const char* name) {
    const int64_t value = integer();
    STD_TORCH_CHECK(value >= 0 && value < end, "program must have a ", name, " of 0 to ", end - 1, ", but has ", value,
                    ".");
    return value;
  }
  int64_t count(const char* name, int64_t most = kMostChannels) {
    const int64_t value = integer();
    STD_TORCH_CHECK(value > 0 && value <= most, "program must have ", name, " of 1 to ", most, ", but has ", value,
                    ".");
    return value;
  }
  Activation activation() { return static_cast<Activation>(integer_below(kActivationCount, "activation")); }
  float real() {
    const auto bits = static_cast<uint32_t>(integer());
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }
  // Packed weights of `out` channels with `products` products each; a bias has one.
  const E* weights(int64_t out, int64_t products = 1) {
    const int64_t count = ceil_div(out, kLanesOf<E>) * kLanesOf<E> * products;
    STD_TORCH_CHECK(count <= left_, "weights must have as many elements as the program's layers, but has too few.");
    const E* first = next_weight_;
    next_weight_ += count, left_ -= count;
    return first;
  }

  // [kernel, stride, dilation, same, left, right, top, bottom]; 'same' computes the padding from the input.
  Window window(const ImageView& in) {
    const int64_t kernel_h = count("kernel", kMostExtent), kernel_w = count("kernel", kMostExtent);
    Window w{kernel_h, kernel_w};
    w.stride_h = count("stride", kMostExtent), w.stride_w = count("stride", kMostExtent);
    w.dilation_h = count("dilation", kMostExtent), w.dilation_w = count("dilation", kMostExtent);
    const bool same = integer_below(2, "same") == 1;
    w.left = integer_below(kMostExtent, "padding"), w.right = integer_below(kMostExtent, "padding");
    w.top = integer_below(kMostExtent, "padding"), w.bottom = integer_below(kMostExtent, "padding");
    if (same) {
      const int64_t columns = same_padding(in.w, w.span_w(), w.stride_w);
      const int64_t rows = same_padding(in.h, w.span_h(), w.stride_h);
      w.left = columns / 2, w.right = columns - columns / 2, w.top = rows / 2, w.bottom = rows - rows / 2;
    }
    return w;
  }

 private:
  // The elements of a weight within these bounds do not overflow.
  static constexpr int64_t kMostChannels = int64_t{1} << 20, kMostExtent = int64_t{1} << 10;

  // As many outputs as ceil(size / stride); the odd pixel goes behind.
  static int64_t same_padding(int64_t size, int64_t span, int64_t stride) {
    return std::max<int64_t>(0, (ceil_div(size, stride) - 1) * stride + span - size);
  }
  void skip_spaces() {
    while (position_ != end_ && *position_ == ' ') ++position_;
  }

  const char* position_;
  const char* end_;
  const E* next_weight_;
  int64_t left_;
};

template <class E>
Convolution<E> read_convolution(Reader<E>& reader, const ImageView& in) {
  static const ConvolutionKind* const kKinds[] = {&kDepthwise, &kGrouped,   &kPointwise, &kDense,
                                                  &kTrimmed,   &kWinograd2, &kWinograd4};
  const ConvolutionKind& kind = *kKinds[reader.integer_below(std::size(kKinds), "convolution")];
  const int64_t out_channels = reader.count("out_channels"), groups = reader.count("groups");
  const Window window = reader.window(in);
  const WeightShape shape{out_channels, in.c / groups, window.kernel_h + kind.transformed,
                          window.kernel_w + kind.transformed};
  Convolution<E> conv = describe_convolution<E>(kind, in, shape, window, groups);
  conv.weights = reader.weights(out_channels, shape.group_in * shape.kernel_h * shape.kernel_w);
  conv.bias = reader.weights(out_channels);
  conv.activation = reader.activation(), conv.sum_activation = reader.activation();
  STD_TORCH_CHECK(clamp_of(conv.sum_activation).exact, "program must have identity, relu or relu6 behind a sum.");
  return conv;
}

template <class E>
void read_squeeze_excite(Reader<E>& reader, FusedBlock<E>& block) {
  SqueezeExcite<E>& se = block.se;
  se.squeezed = reader.count("se_channels");
  se.reduce_weights = reader.weights(se.squeezed, block.hidden), se.reduce_bias = reader.weights(se.squeezed);
  se.expand_weights = reader.weights(block.hidden, se.squeezed), se.expand_bias = reader.weights(block.hidden);
  se.activation = reader.activation(), se.gate = reader.activation();
}

template <class E>
FusedBlock<E> read_fused_block(Reader<E>& reader, const ImageView& in) {
  FusedBlock<E> block;
  block.in = in;
  const bool expands = reader.integer_below(2, "expands") == 1, squeezes = reader.integer_below(2, "squeezes") == 1;
  block.hidden = reader.count("hidden_channels"), block.out_c = reader.count("out_channels");
  const Window window = reader.window(in);
  set_spatial(block, window, reader.count("groups"), expands);
  block.activation = reader.activation(), block.output_activation = reader.activation();
  if (expands) {
    block.expand_weights = reader.weights(block.hidden, in.c), block.expand_bias = reader.weights(block.hidden);
  }
  const int64_t taps = block.window.kernel_h * block.window.kernel_w * (block.grouped8 ? 8 : 1);
  block.conv_weights = reader.weights(block.hidden, taps), block.conv_bias = reader.weights(block.hidden);
  block.project_weights = reader.weights(block.out_c, block.hidden);
  block.project_bias = reader.weights(block.out_c);
  if (squeezes) read_squeeze_excite(reader, block);
  return block;
}

template <class E>
LayerNorm<E> read_layer_norm(Reader<E>& reader, const ImageView& in) {
  LayerNorm<E> norm{};
  norm.in = in;
  norm.epsilon = reader.real();
  norm.weight = reader.weights(in.c), norm.bias = reader.weights(in.c);
  return norm;
}

template <class E>
ConvNextBlock<E> read_convnext_block(Reader<E>& reader, const ImageView& in) {
  ConvNextBlock<E> block{};
  block.hidden = reader.count("hidden_channels"), block.out_c = reader.count("out_channels");
  const Window window = reader.window(in);
  const int64_t groups = reader.count("groups");
  block.activation = reader.activation(), block.normalizes = reader.integer_below(2, "normalizes") == 1;
  block.epsilon = reader.real();
  STD_TORCH_CHECK(groups == in.c || groups * 8 == in.c, "groups must be the ", in.c,
                  " input channels or an eighth of them, but is ", groups, ".");
  const WeightShape shape{in.c, in.c / groups, window.kernel_h, window.kernel_w};
  block.conv = describe_convolution<E>(groups == in.c ? kDepthwise : kGrouped, in, shape, window, groups);
  block.conv.weights = reader.weights(in.c, shape.group_in * window.kernel_h * window.kernel_w);
  block.conv.bias = reader.weights(in.c);
  block.expand_weights = reader.weights(block.hidden, in.c), block.expand_bias = reader.weights(block.hidden);
  block.project_weights = reader.weights(block.out_c, block.hidden);
  block.project_bias = reader.weights(block.out_c);
  return block;
}

template <class E>
BlurPool<E> read_blur_pool(Reader<E>& reader, const ImageView& in, bool beside) {
  BlurPool<E> pool{};
  pool.in = in;
  pool.stride = reader.count("stride");
  pool.images = reader.integer_below(3, "images");
  STD_TORCH_CHECK(pool.images == (beside ? 2 : 1), "program must blur two images where it takes one beside another.");
  STD_TORCH_CHECK(in.h > 1 && in.w > 1, "input must have at least 2x2 pixels where its edges are reflected, but has ",
                  in.h, "x", in.w, ".");
  return pool;
}

ImageView shape_of(const ImageView& in, int64_t c, int64_t h, int64_t w) {
  return {nullptr, in.storage, in.n, h, w, c, false};
}

template <class E>
ChainStep<E> read_step(Reader<E>& reader, const ImageView& input, const std::vector<ChainStep<E>>& before) {
  ChainStep<E> step{};
  const int64_t kind = reader.integer_below(6, "kind"), values = static_cast<int64_t>(before.size()) + 1;
  step.in = reader.integer_below(values, "value");
  step.residual = reader.integer();
  STD_TORCH_CHECK(step.residual >= -1 && step.residual < values, "program must add an earlier value, but adds ",
                  step.residual, ".");
  const ImageView in = step.in == 0 ? input : before[step.in - 1].out;
  if (kind == kConvolution) {
    const Convolution<E> conv = read_convolution(reader, in);
    step.work = conv, step.out = shape_of(in, conv.out_c, conv.out_h, conv.out_w);
  } else if (kind == kFusedBlock) {
    const FusedBlock<E> block = read_fused_block(reader, in);
    step.work = block, step.out = shape_of(in, block.out_c, block.out_h, block.out_w);
  } else if (kind == kGlobalPool) {
    step.work = GlobalPool{in, nullptr}, step.out = shape_of(in, in.c, 1, 1);
  } else if (kind == kLayerNorm) {
    step.work = read_layer_norm(reader, in), step.out = shape_of(in, in.c, in.h, in.w);
  } else if (kind == kBlurPool) {
    const BlurPool<E> pool = read_blur_pool(reader, in, step.residual >= 0);
    step.work = pool, step.out = shape_of(in, pool.out_c(), pool.out_h(), pool.out_w());
  } else {
    const ConvNextBlock<E> block = read_convnext_block(reader, in);
    step.work = block, step.out = shape_of(in, block.out_c, block.conv.out_h, block.conv.out_w);
  }
  const bool dense = kind == kConvolution && std::get<Convolution<E>>(step.work).reads_planar();
  STD_TORCH_CHECK(!in.planar || dense, "input must be dense in channels_last order.");
  return step;
}

template <class E>
void check_residual(const ChainStep<E>& step, const ImageView& added) {
  if (const auto* pool = std::get_if<BlurPool<E>>(&step.work)) {
    const ImageView& in = pool->in;
    STD_TORCH_CHECK(!added.planar && added.h == in.h && added.w == in.w && added.c == in.c,
                    "program must blur two images of one shape.");
    return;
  }
  const bool adds = !std::holds_alternative<GlobalPool>(step.work) && !std::holds_alternative<LayerNorm<E>>(step.work);
  STD_TORCH_CHECK(adds && !added.planar && added.h == step.out.h && added.w == step.out.w && added.c == step.out.c,
                  "residual must have the shape of the output.");
}

}  // namespace

template <class E>
std::vector<ChainStep<E>> read_chain(const ImageView& input, const Tensor& weights, const std::string& program) {
  Reader<E> reader(program, weights);
  std::vector<ChainStep<E>> steps;
  while (!reader.at_end()) {
    const ChainStep<E> step = read_step(reader, input, steps);
    if (step.residual >= 0) check_residual(step, step.residual == 0 ? input : steps[step.residual - 1].out);
    steps.push_back(step);
  }
  STD_TORCH_CHECK(!steps.empty(), "program must have at least one step.");
  STD_TORCH_CHECK(reader.used_all_weights(),
                  "weights must have as many elements as the program's layers, but has more.");
  return steps;
}

template std::vector<ChainStep<float>> read_chain(const ImageView&, const Tensor&, const std::string&);
template std::vector<ChainStep<Half>> read_chain(const ImageView&, const Tensor&, const std::string&);

}  // namespace convfirst
