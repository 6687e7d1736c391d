// Mean and variance of every channel over a batch, in one pass.
#include <algorithm>
#include <cstring>

#include "microkernels/isa.h"
#include "normed.h"
#include "parallel.h"

namespace convfirst {

void ChannelMoments::add(int64_t part, bool is_first, const float* x, int64_t stride, int64_t pixels, int64_t channel,
                         int64_t channels) const {
  float* pivot = values_ + part * 3 * channels_ + channel;
  if (is_first) {
    std::memcpy(pivot, x, static_cast<size_t>(channels) * sizeof(float));
    for (int64_t row = 1; row < 3; ++row) {
      std::memset(pivot + row * channels_, 0, static_cast<size_t>(channels) * sizeof(float));
    }
  }
  NormArgs<float> n{};
  n.x = x, n.x_stride = stride, n.pixels = pixels, n.channels = channels, n.mean = pivot;
  n.sums = pivot + channels_, n.sums_stride = channels_;
  kernels_for<float>().moments(n);
}

namespace {

constexpr int64_t kMostParts = 64;

std::tuple<Tensor, Tensor> channel_moments(const Tensor input) {
  const ImageView in = view_nhwc(input, "input");
  STD_TORCH_CHECK(in.storage == Storage::kFloat32, "input must have dtype float32.");
  const int64_t pixels = in.n * in.h * in.w, parts = std::min(pixels, kMostParts);
  STD_TORCH_CHECK(pixels > 0, "input must have at least one pixel.");
  const int64_t strides[] = {1};
  Tensor mean = empty_strided(&in.c, strides, 1, aoti_torch_dtype_float32());
  Tensor variance = empty_strided(&in.c, strides, 1, aoti_torch_dtype_float32());
  const ChannelMoments moments(parts, in.c, call_scratch(ChannelMoments::floats(parts, in.c)));
  const auto first = [&](int64_t part) { return pixels * part / parts; };
  for_each_task(parts, [&](int64_t part) {
    const float* x = static_cast<const float*>(in.data) + first(part) * in.c;
    moments.add(part, true, x, in.c, first(part + 1) - first(part), 0, in.c);
  });
  moments.finish([&](int64_t part) { return first(part + 1) - first(part); },
                 static_cast<float*>(mean.mutable_data_ptr()), static_cast<float*>(variance.mutable_data_ptr()));
  return {mean, variance};
}

STABLE_TORCH_LIBRARY_IMPL(convfirst, CPU, m) { m.impl("channel_moments", TORCH_BOX(&channel_moments)); }

}  // namespace
}  // namespace convfirst
