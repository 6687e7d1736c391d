// activation(scale * x + shift) of a whole tensor, its mean over an image, and its gradients: what training needs where
// no convolution of ours reads the values.
#include <algorithm>
#include <cstring>

#include "kept_memory.h"
#include "microkernels/isa.h"
#include "normed.h"
#include "parallel.h"

namespace convfirst {
namespace {

constexpr int64_t kMostParts = 64;
constexpr int64_t kBandPixels = 64;

// Equal parts of the pixels; none crosses an image.
struct Parts {
  int64_t images, of_image, pixels;

  Parts(const ImageView& in)
      : images(in.n),
        of_image(std::clamp<int64_t>(kMostParts / std::max<int64_t>(1, in.n), 1, std::max<int64_t>(1, in.h * in.w))),
        pixels(in.h * in.w) {}
  int64_t count() const { return images * of_image; }
  int64_t first(int64_t part) const { return part / of_image * pixels + pixels * (part % of_image) / of_image; }
  int64_t size(int64_t part) const {
    return pixels * (part % of_image + 1) / of_image - pixels * (part % of_image) / of_image;
  }
};

ImageView view_fp32(const Tensor& t, const char* name) {
  const ImageView view = view_nhwc(t, name);
  STD_TORCH_CHECK(view.storage == Storage::kFloat32, name, " must have dtype float32.");
  return view;
}

const float* floats_like(const Tensor& t, const char* name, const Tensor& other) {
  return static_cast<const float*>(view_like(t, name, other));
}

NormArgs<float> norm_args(const ImageView& in, const Tensor& scale, const Tensor& shift,
                          const std::string& activation) {
  NormArgs<float> n{};
  n.x = static_cast<const float*>(in.data);
  n.x_stride = n.other_stride = n.out_stride = n.channels = n.sums_stride = in.c;
  n.scale = view_floats(scale, "scale", in.c), n.shift = view_floats(shift, "shift", in.c);
  n.activation = activation_of(activation, "activation");
  return n;
}

// Moves what lies at a part's first pixel.
void stand_at(NormArgs<float>& n, int64_t pixel, int64_t pixels) {
  n.x += pixel * n.channels;
  if (n.other) n.other += pixel * n.channels;
  if (n.out) n.out += pixel * n.channels;
  n.pixels = pixels;
}

Tensor normed_activation(const Tensor input, const Tensor scale, const Tensor shift, const std::string activation,
                         const OptionalTensor residual) {
  const ImageView in = view_fp32(input, "input");
  NormArgs<float> n = norm_args(in, scale, shift, activation);
  Tensor out = empty_kept(in.n, in.c, in.h, in.w);
  if (residual) n.other = floats_like(*residual, "residual", out);
  n.out = data_of(out);
  const Parts parts(in);
  for_each_task(parts.count(), [&](int64_t part) {
    NormArgs<float> of_part = n;
    stand_at(of_part, parts.first(part), parts.size(part));
    kernels_for<float>().apply_norm(of_part);
  });
  return out;
}

Tensor normed_activation_mean(const Tensor input, const Tensor scale, const Tensor shift,
                              const std::string activation) {
  const ImageView in = view_fp32(input, "input");
  const NormArgs<float> n = norm_args(in, scale, shift, activation);
  Tensor mean = empty_floats(in.n, in.c);
  float* out = data_of(mean);
  std::memset(out, 0, static_cast<size_t>(in.n * in.c) * sizeof(float));
  const int64_t pixels = in.h * in.w;
  for_each_task(in.n, [&](int64_t image) {
    NormArgs<float> of_image = n;
    of_image.sums = out + image * in.c;
    stand_at(of_image, image * pixels, pixels);
    kernels_for<float>().gate_grad(of_image);
    for (int64_t c = 0; c < in.c; ++c) of_image.sums[c] /= static_cast<float>(pixels);
  });
  return mean;
}

// The gradient of the norm from that of the activation, and its sums; without a gradient of its own where `keeps` is
// false. With a gate (n, c) and an offset (n, c) the activation's gradient is grad * gate + offset.
std::tuple<Tensor, Tensor> normed_activation_backward(const Tensor grad, const Tensor input, const Tensor scale,
                                                      const Tensor shift, const Tensor mean,
                                                      const std::string activation, const OptionalTensor gate,
                                                      const OptionalTensor offset, bool keeps) {
  const ImageView in = view_fp32(input, "input");
  NormArgs<float> n = norm_args(in, scale, shift, activation);
  n.other = floats_like(grad, "grad", input), n.mean = view_floats(mean, "mean", in.c);
  const float* gates = gate ? view_floats(*gate, "gate", in.n * in.c) : nullptr;
  const float* offsets = offset ? view_floats(*offset, "offset", in.n * in.c) : nullptr;
  Tensor out = keeps ? empty_kept(in.n, in.c, in.h, in.w) : empty_kept(0, in.c, in.h, in.w);
  n.out = keeps ? data_of(out) : nullptr;
  const Parts parts(in);
  float* sums = call_scratch(parts.count() * 2 * in.c);
  for_each_task(parts.count(), [&](int64_t part) {
    NormArgs<float> of_part = n;
    const int64_t channel = part / parts.of_image * in.c;
    of_part.gate = gates ? gates + channel : nullptr, of_part.offset = offsets ? offsets + channel : nullptr;
    of_part.sums = sums + part * 2 * in.c;
    std::memset(of_part.sums, 0, static_cast<size_t>(2 * in.c) * sizeof(float));
    stand_at(of_part, parts.first(part), parts.size(part));
    kernels_for<float>().activation_grad(of_part);
  });
  Tensor total = empty_floats(2, in.c);
  add_parts(sums, parts.count(), 2 * in.c, data_of(total));
  return {out, total};
}

// factors[0] * (grad * activation'(scale * x + shift)) + factors[1] * x + factors[2]: the gradient of the norm's input.
Tensor normed_activation_input_grad(const Tensor grad, const Tensor input, const Tensor scale, const Tensor shift,
                                    const std::string activation, const Tensor factors) {
  const ImageView in = view_fp32(input, "input");
  NormArgs<float> n = norm_args(in, scale, shift, activation);
  const float* given = view_floats(factors, "factors", 3 * in.c);
  n.other = floats_like(grad, "grad", input), n.mean = n.shift;
  Tensor out = empty_kept(in.n, in.c, in.h, in.w);
  n.out = data_of(out);
  const Parts parts(in);
  for_each_task(parts.count(), [&](int64_t part) {
    float* scratch = task_scratch((kBandPixels + 2) * in.c);
    for (int64_t done = 0; done < parts.size(part); done += kBandPixels) {
      NormArgs<float> band = n;
      stand_at(band, parts.first(part) + done, std::min(kBandPixels, parts.size(part) - done));
      float* written = band.out;
      band.out = scratch, band.sums = scratch + kBandPixels * in.c;
      kernels_for<float>().activation_grad(band);
      band.other = scratch, band.out = written;
      band.scale = given, band.gate = given + in.c, band.shift = given + 2 * in.c;
      kernels_for<float>().combine(band);
    }
  });
  return out;
}

STABLE_TORCH_LIBRARY_IMPL(convfirst, CPU, m) {
  m.impl("normed_activation", TORCH_BOX(&normed_activation));
  m.impl("normed_activation_mean", TORCH_BOX(&normed_activation_mean));
  m.impl("normed_activation_backward", TORCH_BOX(&normed_activation_backward));
  m.impl("normed_activation_input_grad", TORCH_BOX(&normed_activation_input_grad));
}

}  // namespace
}  // namespace convfirst
