// A convolution of training between two batch norms, forward and backward: what it accepts, its results in torch's
// order.
#include <algorithm>

#include "kept_memory.h"
#include "microkernels/isa.h"
#include "normed.h"
#include "parallel.h"
#include "spatial_run.h"

namespace convfirst {
namespace {

struct NormArguments {
  const OptionalTensor &scale, &shift, &mean, &gate;
  const std::string& activation;
};

NormedInput describe_input(const Tensor& input, const NormArguments& norm) {
  const ImageView in = view_nhwc(input, "input");
  STD_TORCH_CHECK(in.storage == Storage::kFloat32, "input must have dtype float32.");
  STD_TORCH_CHECK(in.n > 0 && in.h > 0 && in.w > 0 && in.c > 0, "input must not be empty.");
  STD_TORCH_CHECK(norm.scale.has_value() == norm.shift.has_value(), "scale and shift must be given together.");
  NormedInput result{};
  result.x = static_cast<const float*>(in.data), result.n = in.n, result.h = in.h, result.w = in.w, result.c = in.c;
  result.activation = activation_of(norm.activation, "activation");
  if (norm.scale) result.scale = view_floats(*norm.scale, "scale", in.c);
  if (norm.shift) result.shift = view_floats(*norm.shift, "shift", in.c);
  if (norm.mean) result.mean = view_floats(*norm.mean, "mean", in.c);
  if (norm.gate) result.gate = view_floats(*norm.gate, "gate", in.n * in.c);
  STD_TORCH_CHECK(!result.plain() || (!result.gate && result.activation == Activation::kIdentity),
                  "activation and gate need scale and shift.");
  return result;
}

bool is_pointwise(const NormedConv& conv) { return conv.groups == 1; }

NormedConv describe(const NormedInput& in, const WeightShape& weight, const Window& window, int64_t groups) {
  NormedConv conv{in, window, groups, window.out_h(in.h), window.out_w(in.w), weight.out_c};
  check_output(window, in.h, in.w);
  STD_TORCH_CHECK(groups > 0 && in.c % groups == 0 && weight.group_in == in.c / groups, "weight must have ", in.c,
                  " input channels in ", groups, " groups, but has ", weight.group_in, " a group.");
  if (is_pointwise(conv)) {
    STD_TORCH_CHECK(window.is_pointwise(), "weight must have a kernel of 1x1, stride 1 and no padding in one group.");
    STD_TORCH_CHECK(weight.out_c > 0, "weight must have at least one output channel.");
    return conv;
  }
  STD_TORCH_CHECK(weight.out_c == in.c && (weight.group_in == 1 || weight.group_in == 8),
                  "groups must have one or eight channels, in and out, but have ", weight.group_in, " and ",
                  weight.out_c / groups, ".");
  STD_TORCH_CHECK(window.kernel_h <= kMaxKernelRows, "weight must have at most ", kMaxKernelRows, " rows.");
  STD_TORCH_CHECK(!in.gate, "gate must go with a pointwise convolution.");
  return conv;
}

const float* forward_weights(const NormedPointwise&, const NormedConv& conv, const Tensor& weight) {
  const int64_t floats = weight_shape(weight).packed_floats();
  float* packed = weight_scratch(floats + NormedPointwise::filled_floats(conv.in.c, conv.out_c));
  pack_weight_into(weight, packed);
  NormedPointwise::fill_up(packed, conv.in.c, conv.out_c, packed + floats);
  return packed + floats;
}
const float* forward_weights(const NormedSpatial&, const NormedConv&, const Tensor& weight) {
  float* packed = weight_scratch(weight_shape(weight).packed_floats());
  pack_weight_into(weight, packed);
  return packed;
}

template <class Driver>
std::tuple<Tensor, Tensor> run_forward(const NormedConv& conv, const Tensor& weight, Tensor& out) {
  const Driver driver(conv);
  const float* packed = forward_weights(driver, conv, weight);
  const ChannelMoments moments(driver.parts(), conv.out_c,
                               call_scratch(ChannelMoments::floats(driver.parts(), conv.out_c)));
  driver.forward(packed, data_of(out), moments);
  const int64_t strides[] = {1};
  Tensor mean = empty_strided(&conv.out_c, strides, 1, aoti_torch_dtype_float32());
  Tensor variance = empty_strided(&conv.out_c, strides, 1, aoti_torch_dtype_float32());
  moments.finish([&](int64_t part) { return driver.pixels(part); }, data_of(mean), data_of(variance));
  return {mean, variance};
}

std::tuple<Tensor, Tensor, Tensor> normed_conv2d(const Tensor input, const OptionalTensor scale,
                                                 const OptionalTensor shift, const OptionalTensor gate,
                                                 const std::string activation, const Tensor weight, const Ints stride,
                                                 const Ints padding, const Ints dilation, int64_t groups) {
  const WeightShape shape = weight_shape(weight);
  const Window window = window_of(shape.kernel_h, shape.kernel_w, stride, padding, dilation);
  const NormedInput in = describe_input(input, {scale, shift, {}, gate, activation});
  const NormedConv conv = describe(in, shape, window, groups);
  Tensor out = empty_kept(in.n, conv.out_c, conv.out_h, conv.out_w);
  auto [mean, variance] = is_pointwise(conv) ? run_forward<NormedPointwise>(conv, weight, out)
                                             : run_forward<NormedSpatial>(conv, weight, out);
  return {out, mean, variance};
}

// Weights as the data gradient wants them.
const float* gradient_weights(const NormedPointwise&, const NormedConv& conv, const Tensor& weight) {
  const int64_t floats = ceil_div(conv.in.c, kLanes) * kLanes * conv.out_c;
  float* packed = weight_scratch(floats + NormedPointwise::filled_floats(conv.out_c, conv.in.c));
  pack_transposed_weight_into(weight, 1, packed);
  NormedPointwise::fill_up(packed, conv.out_c, conv.in.c, packed + floats);
  return packed + floats;
}
const float* gradient_weights(const NormedSpatial& driver, const NormedConv&, const Tensor& weight) {
  const int64_t floats = weight_shape(weight).packed_floats();
  float* packed = weight_scratch(2 * floats);
  pack_weight_into(weight, packed);
  driver.turn_weights(packed, packed + floats);
  return packed + floats;
}

struct Gradients {
  Tensor input, weight, sums, gate;
};

// Adds the parts to the first, in their order.
void join_parts(float* partial, int64_t parts, int64_t floats) {
  constexpr int64_t kRange = 4096;
  for_each_task(ceil_div(floats, kRange), [&](int64_t range) {
    const int64_t first = range * kRange, count = std::min(kRange, floats - first);
    float* sum = partial + first;
    for (int64_t part = 1; part < parts; ++part) {
      const float* more = sum + part * floats;
      for (int64_t i = 0; i < count; ++i) sum[i] += more[i];
    }
  });
}

template <class Driver>
void unpack_weight_grad(const Driver& driver, const NormedConv& conv, const float* sums, float* out) {
  const int64_t inputs = conv.group_in(), taps = conv.taps();
  for_each_task(conv.blocks(), [&](int64_t block) {
    for (int64_t k = 0; k < inputs; ++k) {
      for (int64_t tap = 0; tap < taps; ++tap) {
        const float* lanes = sums + driver.position(block * kLanes, k, tap);
        float* to = out + (block * kLanes * inputs + k) * taps + tap;
        for (int64_t lane = 0; lane < conv.lanes(block); ++lane) to[lane * inputs * taps] = lanes[lane];
      }
    }
  });
}

template <class Driver>
void run_backward(const NormedConv& conv, const Tensor& weight, const NormedGrad& grad, bool needs_input,
                  Gradients& gradients) {
  const Driver driver(conv);
  const int64_t parts = driver.parts(), weights = parts * driver.weight_floats(), channels = conv.in.c;
  float* scratch = call_scratch(weights + parts * 2 * channels);
  NormedResults results{};
  results.input = needs_input ? data_of(gradients.input) : nullptr;
  results.weights = scratch, results.sums = scratch + weights;
  results.gate_sums = conv.in.gate ? data_of(gradients.gate) : nullptr;
  if (conv.in.gate) std::fill_n(results.gate_sums, conv.in.n * channels, 0.0f);
  driver.backward(needs_input ? gradient_weights(driver, conv, weight) : nullptr, grad, results);
  join_parts(results.weights, parts, driver.weight_floats());
  unpack_weight_grad(driver, conv, results.weights, data_of(gradients.weight));
  add_parts(results.sums, parts, 2 * channels, data_of(gradients.sums));
}

std::tuple<Tensor, Tensor, Tensor, Tensor> normed_conv2d_backward(
    const Tensor grad, const OptionalTensor output, const OptionalTensor factors, const Tensor input,
    const OptionalTensor scale, const OptionalTensor shift, const OptionalTensor mean, const OptionalTensor gate,
    const std::string activation, const Tensor weight, const Ints stride, const Ints padding, const Ints dilation,
    int64_t groups, bool needs_input) {
  const WeightShape shape = weight_shape(weight);
  const Window window = window_of(shape.kernel_h, shape.kernel_w, stride, padding, dilation);
  const NormedInput in = describe_input(input, {scale, shift, mean, gate, activation});
  const NormedConv conv = describe(in, shape, window, groups);
  STD_TORCH_CHECK(in.plain() || in.mean, "mean must be given with scale and shift.");
  const ImageView of_output = view_nhwc(grad, "grad");
  STD_TORCH_CHECK(of_output.storage == Storage::kFloat32, "grad must have dtype float32.");
  STD_TORCH_CHECK(
      of_output.n == in.n && of_output.c == conv.out_c && of_output.h == conv.out_h && of_output.w == conv.out_w,
      "grad must have the shape of the convolution's output.");
  STD_TORCH_CHECK(output.has_value() == factors.has_value(), "output and factors must be given together.");
  NormedGrad given{static_cast<const float*>(of_output.data), nullptr, nullptr};
  if (output) given.y = static_cast<const float*>(view_like(*output, "output", grad));
  if (factors) given.factors = view_floats(*factors, "factors", 3 * conv.out_c);
  const int64_t sizes[] = {conv.out_c, conv.group_in(), window.kernel_h, window.kernel_w};
  const int64_t strides[] = {conv.group_in() * conv.taps(), conv.taps(), window.kernel_w, 1};
  Gradients gradients{empty_kept(needs_input ? in.n : 0, in.c, in.h, in.w),
                      empty_strided(sizes, strides, 4, aoti_torch_dtype_float32()), empty_floats(2, in.c),
                      empty_floats(in.gate ? in.n : 0, in.c)};
  is_pointwise(conv) ? run_backward<NormedPointwise>(conv, weight, given, needs_input, gradients)
                     : run_backward<NormedSpatial>(conv, weight, given, needs_input, gradients);
  return {gradients.input, gradients.weight, gradients.sums, gradients.gate};
}

STABLE_TORCH_LIBRARY_IMPL(convfirst, CPU, m) {
  m.impl("normed_conv2d", TORCH_BOX(&normed_conv2d));
  m.impl("normed_conv2d_backward", TORCH_BOX(&normed_conv2d_backward));
}

}  // namespace
}  // namespace convfirst
