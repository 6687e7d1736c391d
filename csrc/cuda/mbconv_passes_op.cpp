// Inverted residuals of CUDA tensors in passes: weights in torch's layouts and the input's dtype, biases and
// squeeze-excite in fp32. The batch goes through in parts whose hidden tensor stays in the L2 cache.
#include "mbconv_passes.h"

#include <algorithm>

#include "tensor.h"

namespace convfirst::cuda {
namespace {

struct SqueezeExcite {
  OptionalTensor reduce_weight, reduce_bias, excite_weight, excite_bias;
};

HiddenPass describe_hidden(const Image& in, const OptionalTensor& expand_weight, const OptionalTensor& expand_bias,
                           const Tensor& conv_weight, const OptionalTensor& conv_bias) {
  STD_TORCH_CHECK(conv_weight.dim() == 4, "conv_weight must have 4 dimensions (E, 1 or 8, K, K).");
  const int64_t hidden = conv_weight.size(0), width = conv_weight.size(1), kernel = conv_weight.size(2);
  const bool grouped = width == 8 && kernel == 3, depthwise = width == 1 && (kernel == 3 || kernel == 5);
  STD_TORCH_CHECK(grouped || depthwise, "conv_weight must be depthwise, 3x3 or 5x5, or 3x3 of group width 8 on CUDA.");
  HiddenPass pass{};
  pass.storage = in.storage;
  pass.kind = grouped ? HiddenKind::kGrouped3 : kernel == 3 ? HiddenKind::kDepthwise3 : HiddenKind::kDepthwise5;
  pass.n = in.n, pass.h = in.h, pass.w = in.w, pass.c = in.c;
  pass.hidden = to_int(hidden, "hidden channels");
  pass.input = in.data;
  STD_TORCH_CHECK(expand_weight || hidden == in.c, "expand_weight must be given where conv_weight has not the ",
                  "input's channels.");
  if (expand_weight) {
    pass.expand_weight = view_weight(*expand_weight, "expand_weight", {hidden, in.c, 1, 1}, in.storage);
    pass.expand_bias = view_bias(expand_bias, "expand_bias", hidden, in.storage);
  }
  pass.conv_weight = view_weight(conv_weight, "conv_weight", {hidden, width, kernel, kernel}, in.storage);
  pass.conv_bias = view_bias(conv_bias, "conv_bias", hidden, in.storage);
  return pass;
}

void set_window(HiddenPass& pass, int64_t kernel, int64_t stride, const Ints& padding, bool blurs) {
  const convfirst::Window window = convfirst::window_of(kernel, kernel, {stride, stride}, padding, {1, 1});
  check_output(window, pass.h, pass.w);
  pass.stride = to_int(stride, "stride"), pass.blurs = blurs;
  pass.top = to_int(padding[2], "padding"), pass.left = to_int(padding[0], "padding");
  pass.conv_h = to_int(window.out_h(pass.h), "output"), pass.conv_w = to_int(window.out_w(pass.w), "output");
  pass.p = blurs ? (pass.conv_h + 1) / 2 : pass.conv_h, pass.q = blurs ? (pass.conv_w + 1) / 2 : pass.conv_w;
}

ExcitePass describe_excite(const HiddenPass& hidden, const SqueezeExcite& se, const std::string& activation,
                           const std::string& gate) {
  ExcitePass pass{};
  STD_TORCH_CHECK(se.reduce_weight.has_value() == se.excite_weight.has_value(),
                  "se_reduce_weight and se_expand_weight must both be given or both be None.");
  if (!se.reduce_weight) return pass;
  STD_TORCH_CHECK(se.reduce_weight->dim() == 4, "se_reduce_weight must have 4 dimensions (S, E, 1, 1).");
  const int64_t squeezed = se.reduce_weight->size(0), channels = hidden.hidden;
  constexpr int64_t kMostNumbers = 12 << 10;  // in the shared memory that every GPU has
  STD_TORCH_CHECK(squeezed + channels <= kMostNumbers, "se_reduce_weight must have at most ", kMostNumbers,
                  " channels together.");
  pass.pixels = hidden.p * hidden.q, pass.hidden = hidden.hidden;
  pass.squeezed = to_int(squeezed, "squeezed channels");
  pass.activation = activation_of(activation), pass.gate_activation = activation_of(gate);
  const Storage storage = hidden.storage;
  pass.reduce_weight = view_weight(*se.reduce_weight, "se_reduce_weight", {squeezed, channels, 1, 1}, storage, true);
  pass.excite_weight = view_weight(*se.excite_weight, "se_expand_weight", {channels, squeezed, 1, 1}, storage, true);
  pass.reduce_bias = view_bias(se.reduce_bias, "se_reduce_bias", squeezed, storage);
  pass.excite_bias = view_bias(se.excite_bias, "se_expand_bias", channels, storage);
  return pass;
}

// `count` images of a tensor from number `first` on.
Buffer images_of(const Buffer& buffer, int64_t image_bytes, int first, int count) {
  if (!buffer.data) return {};
  return {static_cast<char*>(buffer.data) + first * image_bytes, count * image_bytes};
}

struct Passes {
  HiddenPass hidden;
  ExcitePass excite;
  ProductPass product;
};

// All passes of images [first, first + count) of the batch; the workspaces serve every part.
const char* run_part(const Passes& whole, int first, int count, Stream stream) {
  HiddenPass hidden = whole.hidden;
  ExcitePass excite = whole.excite;
  ProductPass product = whole.product;
  hidden.n = excite.n = count;
  hidden.input = images_of(hidden.input, int64_t{2} * hidden.h * hidden.w * hidden.c, first, count);
  plan_hidden(hidden);
  excite.tiles = hidden.tile.tiles();
  const char* error = run_hidden(hidden, stream);
  if (!error && excite.squeezed) error = run_excite(excite, stream);
  if (error) return error;
  const int64_t out_bytes = int64_t{2} * product.pixels * product.outputs;
  product.rows = int64_t{count} * product.pixels;
  product.output = images_of(product.output, out_bytes, first, count);
  product.residual = images_of(product.residual, out_bytes, first, count);
  return run_product(product, stream);
}

void run_batch(Passes& passes, const Tensor& input, Stream stream) {
  HiddenPass& hidden = passes.hidden;
  const int most = images_at_a_time(hidden);
  Tensor between = empty_nhwc(input, most, hidden.hidden, hidden.p, hidden.q);
  passes.product.input = hidden.output = buffer_of(between, 2);
  std::optional<Tensor> numbers;
  if (passes.excite.squeezed) {
    // Tiles of a smaller last part may be smaller, but no more than one a pixel.
    const auto tiles_of = [&](int count) {
      HiddenPass part = hidden;
      part.n = count;
      plan_hidden(part);
      return int64_t{count} * part.tile.tiles();
    };
    const int last = hidden.n % most ? hidden.n % most : most;
    const int64_t rows = std::max(tiles_of(most), tiles_of(last)), gates = int64_t{most} * hidden.hidden;
    numbers = empty_floats(input, rows * hidden.hidden + gates);
    float* const start = static_cast<float*>(const_cast<void*>(numbers->const_data_ptr()));
    hidden.sums = passes.excite.sums = {start, 4 * rows * hidden.hidden};
    passes.product.gate = passes.excite.gate = {start + rows * hidden.hidden, 4 * gates};
  }
  for (int first = 0; first < hidden.n; first += most) {
    check_launch(run_part(passes, first, std::min(most, hidden.n - first), stream));
  }
}

Tensor mbconv_passes(const Tensor input, const OptionalTensor expand_weight, const OptionalTensor expand_bias,
                     const Tensor conv_weight, const OptionalTensor conv_bias, const Tensor project_weight,
                     const OptionalTensor project_bias, const OptionalTensor residual,
                     const OptionalTensor se_reduce_weight, const OptionalTensor se_reduce_bias,
                     const OptionalTensor se_expand_weight, const OptionalTensor se_expand_bias, int64_t stride,
                     const Ints padding, bool blur, const std::string activation, const std::string output_activation,
                     const std::string se_activation, const std::string se_gate) {
  const Image in = view_image(input, "input");
  Passes passes{};
  passes.hidden = describe_hidden(in, expand_weight, expand_bias, conv_weight, conv_bias);
  passes.hidden.activation = activation_of(activation);
  set_window(passes.hidden, conv_weight.size(2), stride, padding, blur);
  const HiddenPass& hidden = passes.hidden;
  passes.excite = describe_excite(hidden, {se_reduce_weight, se_reduce_bias, se_expand_weight, se_expand_bias},
                                  se_activation, se_gate);
  STD_TORCH_CHECK(project_weight.dim() == 4, "project_weight must have 4 dimensions (O, E, 1, 1).");
  const int64_t outputs = project_weight.size(0);
  ProductPass& product = passes.product;
  product.storage = in.storage, product.pixels = hidden.p * hidden.q;
  product.inputs = hidden.hidden, product.outputs = to_int(outputs, "output channels");
  product.activation = activation_of(output_activation);
  product.weight = view_weight(project_weight, "project_weight", {outputs, hidden.hidden, 1, 1}, in.storage);
  product.bias = view_bias(project_bias, "project_bias", outputs, in.storage);
  const Device device(input);
  Tensor out = empty_nhwc(input, in.n, outputs, hidden.p, hidden.q);
  const Image image = view_image(out, "output");
  product.output = image.data;
  product.residual = view_like(residual, "residual", image);
  for (const char* reason : {hidden_reason_against(hidden), product_reason_against(product)}) {
    STD_TORCH_CHECK(reason == nullptr, "on CUDA ", reason, ".");
  }
  if (out.numel() > 0) run_batch(passes, input, device.stream());
  return out;
}

CONVFIRST_CUDA_OPERATORS(m) { m.impl("mbconv_passes", TORCH_BOX(&mbconv_passes)); }

}  // namespace
}  // namespace convfirst::cuda
