// Depthwise convolution and group width 8 between two batch norms: one block of 16 channels of a band of rows at a
// time. The data gradient is a convolution of stride one with turned weights over the output's gradient, spread along
// the row by the stride; rows that a stride leaves out are never there.
#include <algorithm>
#include <cstring>

#include "microkernels/isa.h"
#include "multiply.h"
#include "normed.h"
#include "parallel.h"
#include "spatial_run.h"

namespace convfirst {
namespace {

constexpr int64_t kBandFloats = 48 * 1024;  // of a band's copies: they stay in the L2 cache
constexpr int64_t kRowsAtOnce = 8;
constexpr int64_t kGroupWidth = 8;

Window turned_window(const Window& w) {
  Window turned{w.kernel_h, w.kernel_w};
  turned.dilation_h = w.dilation_h, turned.dilation_w = w.dilation_w;
  return turned;
}

// Where output column x lies in a spread row.
int64_t spread_column(const Window& w, int64_t x) { return x * w.stride_w - w.left + w.span_w() - 1; }

}  // namespace

NormedSpatial::NormedSpatial(const NormedConv& conv)
    : conv_(conv),
      turned_(turned_window(conv.window)),
      kernels_(kernels_for<float>()),
      family_(conv.group_in() > 1 ? kernels_.grouped8 : kernels_.depthwise),
      padded_w_((conv.out_w - 1) * conv.window.stride_w + conv.window.span_w()),
      spread_w_(conv.in.w + conv.window.span_w() - 1),
      three_columns_(conv.group_in() > 1 && conv.window.kernel_w == 3 && conv.window.stride_w == 1 &&
                     conv.window.stride_h == 1 && conv.window.dilation_w == 1 && conv.window.dilation_h == 1),
      ones_(static_cast<size_t>(conv.in.c), 1.0f),
      zeros_(static_cast<size_t>(conv.blocks() * kLanes), 0.0f) {}

// Images, and blocks of channels where there are fewer images than threads want.
template <class Body>
void NormedSpatial::for_images(const Body& body) const {
  const int64_t blocks = conv_.blocks(), shares = std::min(blocks, ceil_div(4 * thread_count(), conv_.in.n));
  for_each_task(conv_.in.n * shares, [&](int64_t task) {
    const int64_t share = task % shares;
    body(task / shares, blocks * share / shares, blocks * (share + 1) / shares);
  });
}

void NormedSpatial::forward(const float* weights, float* out, const ChannelMoments& moments) const {
  const Window& w = conv_.window;
  const int64_t fitting = (kBandFloats / (padded_w_ * kLanes) - w.span_h()) / w.stride_h + 1;
  const int64_t band = std::clamp<int64_t>(fitting, 1, conv_.out_h);
  for_images([&](int64_t image, int64_t first, int64_t last) {
    for (int64_t y = 0; y < conv_.out_h; y += band) {
      const int64_t end = std::min(conv_.out_h, y + band), pixels = (end - y) * conv_.out_w;
      for (int64_t block = first; block < last; ++block) {
        run_band(image, block, y, end, weights, out);
        const float* written = out + (image * conv_.out_h + y) * conv_.out_w * conv_.out_c + block * kLanes;
        moments.add(image, y == 0, written, conv_.out_c, pixels, block * kLanes, conv_.lanes(block));
      }
    }
  });
}

// out[pixel][16]: the operand's pixels of one block of channels.
void NormedSpatial::gather(const float* x, int64_t stride, int64_t pixels, int64_t image, int64_t block,
                           float* out) const {
  const NormedInput& in = conv_.in;
  NormArgs<float> n{};
  n.x = x, n.x_stride = stride, n.out = out, n.out_stride = kLanes, n.pixels = pixels, n.channels = conv_.lanes(block);
  const int64_t channel = block * kLanes;
  n.scale = (in.plain() ? ones_.data() : in.scale) + channel,
  n.shift = (in.plain() ? zeros_.data() : in.shift) + channel;
  n.gate = in.gate ? in.gate + image * in.c + channel : nullptr;
  n.activation = in.plain() ? Activation::kIdentity : in.activation;
  kernels_.apply_norm(n);
}

void NormedSpatial::run_band(int64_t image, int64_t block, int64_t y0, int64_t y1, const float* weights,
                             float* out) const {
  const Window& w = conv_.window;
  const NormedInput& in = conv_.in;
  const int64_t top = y0 * w.stride_h - w.top, rows = (y1 - y0 - 1) * w.stride_h + w.span_h(), row = padded_w_ * kLanes;
  float* copy = task_scratch(rows * row);
  if (w.pads() || conv_.lanes(block) < kLanes) std::memset(copy, 0, static_cast<size_t>(rows * row) * sizeof(float));
  const int64_t columns = std::min(in.w, padded_w_ - w.left);
  for (int64_t r = std::max<int64_t>(0, -top); r < std::min(rows, in.h - top) && columns > 0; ++r) {
    const float* x = in.x + (image * in.h + top + r) * in.w * in.c + block * kLanes;
    gather(x, in.c, columns, image, block, copy + r * row + w.left * kLanes);
  }
  const float* pointers[kRowsAtOnce * kMaxKernelRows];
  SpatialArgs<float> s{};
  const Clamp clamp = clamp_of(Activation::kIdentity);
  s.rows = pointers, s.rows_step = w.kernel_h, s.in_stride = kLanes;
  s.weights = weights + block * conv_.taps() * inputs() * kLanes, s.bias = zeros_.data();
  s.out_stride = conv_.out_c, s.out_row = conv_.out_w * conv_.out_c, s.lanes = conv_.lanes(block);
  s.low = clamp.low, s.high = clamp.high;
  const RunPlan<float> plan = plan_run(family_, w, conv_.out_w);
  for (int64_t y = y0; y < y1; y += kRowsAtOnce) {
    s.runs = std::min(kRowsAtOnce, y1 - y);
    for (int64_t i = 0; i < s.runs * w.kernel_h; ++i) {
      const int64_t in_y = (y + i / w.kernel_h) * w.stride_h - w.top + i % w.kernel_h * w.dilation_h;
      pointers[i] = in_y < 0 || in_y >= in.h ? nullptr : copy + (in_y - top) * row;
    }
    s.out = out + (image * conv_.out_h + y) * conv_.out_w * conv_.out_c + block * kLanes;
    convolve_run(plan, w, s, conv_.out_w);
  }
}

void NormedSpatial::backward(const float* weights, const NormedGrad& grad, const NormedResults& results) const {
  const Window& w = conv_.window;
  const int64_t row = (conv_.in.w + spread_w_) * kLanes;
  const int64_t fitting = kBandFloats / row - w.span_h() / w.stride_h;
  const int64_t band = std::clamp<int64_t>(fitting, 1, conv_.in.h), part_floats = weight_floats();
  const int64_t of_block = conv_.taps() * inputs() * kLanes;
  for_images([&](int64_t image, int64_t first, int64_t last) {
    float* sums = results.weights + image * part_floats;
    std::memset(sums + first * of_block, 0, static_cast<size_t>((last - first) * of_block) * sizeof(float));
    const int64_t channel = first * kLanes, channels = std::min(conv_.in.c, last * kLanes) - channel;
    for (int64_t row = 2 * image; row < 2 * image + 2; ++row) {
      std::memset(results.sums + row * conv_.in.c + channel, 0, static_cast<size_t>(channels) * sizeof(float));
    }
    for (int64_t y = 0; y < conv_.in.h; y += band) {
      const int64_t end = std::min(conv_.in.h, y + band);
      const int64_t first_out = ceil_div(std::max<int64_t>(0, y + w.top - w.span_h() + 1), w.stride_h);
      const int64_t end_out = std::min(conv_.out_h, (end - 1 + w.top) / w.stride_h + 1);
      for (int64_t block = first; block < last; ++block) {
        backward_band({image, block, y, end, first_out, end_out}, weights, grad, results);
      }
    }
  });
}

void NormedSpatial::backward_band(const Band& band, const float* weights, const NormedGrad& grad,
                                  const NormedResults& results) const {
  const NormedInput& in = conv_.in;
  const int64_t rows = band.end - band.first, out_rows = std::max<int64_t>(0, band.end_out - band.first_out);
  const int64_t copied = rows * in.w * kLanes, spread = out_rows * spread_w_ * kLanes;
  float* a = task_scratch(copied + spread);
  float* dy = a + copied;
  if (conv_.lanes(band.block) < kLanes) std::memset(a, 0, static_cast<size_t>(copied) * sizeof(float));
  const float* x = in.x + (band.image * in.h + band.first) * in.w * in.c + band.block * kLanes;
  gather(x, in.c, rows * in.w, band.image, band.block, a);
  std::memset(dy, 0, static_cast<size_t>(spread) * sizeof(float));
  gather_grad(band, grad, dy);
  add_weight_grad(band, a, dy, results.weights + band.image * weight_floats());
  if (results.input) input_grad(band, dy, weights, a, results);
}

void NormedSpatial::gather_grad(const Band& band, const NormedGrad& grad, float* out) const {
  const Window& w = conv_.window;
  const int64_t channels = conv_.out_c, channel = band.block * kLanes;
  // Outputs that see padding only have no place in a spread row.
  const int64_t first = ceil_div(std::max<int64_t>(0, w.left - w.span_w() + 1), w.stride_w);
  const int64_t end = std::min(conv_.out_w, (conv_.in.w - 1 + w.left) / w.stride_w + 1);
  if (end <= first) return;
  NormArgs<float> n{};
  n.out_stride = w.stride_w * kLanes, n.pixels = end - first, n.channels = conv_.lanes(band.block);
  n.x_stride = n.other_stride = channels;
  const float* factors = grad.factors + channel;
  n.scale = grad.y ? factors : ones_.data(), n.shift = grad.y ? factors + 2 * channels : zeros_.data();
  n.gate = grad.y ? factors + channels : nullptr, n.activation = Activation::kIdentity;
  for (int64_t y = band.first_out; y < band.end_out; ++y) {
    const int64_t position = ((band.image * conv_.out_h + y) * conv_.out_w + first) * channels + channel;
    n.out = out + ((y - band.first_out) * spread_w_ + spread_column(w, first)) * kLanes;
    n.x = (grad.y ? grad.y : grad.grad) + position, n.other = grad.y ? grad.grad + position : nullptr;
    grad.y ? kernels_.combine(n) : kernels_.apply_norm(n);
  }
}

void NormedSpatial::add_weight_grad(const Band& band, const float* a, const float* dy, float* sums) const {
  const Window& w = conv_.window;
  const NormedInput& in = conv_.in;
  std::vector<int64_t> runs(static_cast<size_t>(2 * (band.end - band.first)));
  int64_t* a_runs = runs.data();
  int64_t* b_runs = a_runs + (band.end - band.first);
  if (three_columns_) return add_three_columns(band, a, dy, runs, sums);
  for (int64_t tap = 0; tap < conv_.taps(); ++tap) {
    const int64_t up = tap / w.kernel_w * w.dilation_h - w.top, left = tap % w.kernel_w * w.dilation_w - w.left;
    const int64_t x0 = left >= 0 ? 0 : ceil_div(-left, w.stride_w);
    const int64_t x1 = std::min(conv_.out_w, in.w <= left ? 0 : ceil_div(in.w - left, w.stride_w));
    OuterArgs<float> o{};
    for (int64_t y = band.first_out; y < band.end_out; ++y) {
      const int64_t row = y * w.stride_h + up;
      if (row < band.first || row >= band.end) continue;
      a_runs[o.run_count] = ((row - band.first) * in.w + x0 * w.stride_w + left) * kLanes;
      b_runs[o.run_count++] = ((y - band.first_out) * spread_w_ + spread_column(w, x0)) * kLanes;
    }
    if (!o.run_count || x1 <= x0) continue;
    o.a = a, o.b = dy, o.a_runs = a_runs, o.b_runs = b_runs, o.pixels = x1 - x0, o.last_lanes = kLanes;
    o.a_step = o.b_step = w.stride_w * kLanes;
    o.c = sums + (band.block * conv_.taps() + tap) * inputs() * kLanes;
    grouped() ? kernels_.inner8(o) : kernels_.inner(o);
  }
}

// All kernel columns of a row at once: zeros stand where a row of dy ends, so every input column counts for each.
void NormedSpatial::add_three_columns(const Band& band, const float* a, const float* dy, std::vector<int64_t>& runs,
                                      float* sums) const {
  const Window& w = conv_.window;
  const int64_t width = conv_.in.w;
  for (int64_t ky = 0; ky < w.kernel_h; ++ky) {
    OuterArgs<float> o{};
    o.a_runs = runs.data(), o.b_runs = runs.data() + (band.end - band.first);
    for (int64_t y = band.first_out; y < band.end_out; ++y) {
      const int64_t row = y + ky - w.top;
      if (row < band.first || row >= band.end) continue;
      runs[o.run_count] = (row - band.first) * width * kLanes;
      runs[band.end - band.first + o.run_count++] = (y - band.first_out) * spread_w_ * kLanes;
    }
    if (!o.run_count) continue;
    o.a = a, o.b = dy, o.a_step = o.b_step = kLanes, o.pixels = width, o.last_lanes = kLanes;
    o.c = sums + (band.block * conv_.taps() + ky * w.kernel_w) * inputs() * kLanes, o.c_block = inputs() * kLanes;
    kernels_.inner8_three(o);
  }
}

int64_t NormedSpatial::position(int64_t o, int64_t k, int64_t tap) const {
  return ((o / kLanes * conv_.taps() + tap) * inputs() + k) * kLanes + o % kLanes;
}

void NormedSpatial::input_grad(const Band& band, const float* dy, const float* weights, float* scratch,
                               const NormedResults& results) const {
  const Window& w = conv_.window;
  const NormedInput& in = conv_.in;
  const int64_t position = (band.image * in.h + band.first) * in.w * in.c + band.block * kLanes;
  const int64_t lanes = conv_.lanes(band.block);
  const float* pointers[kRowsAtOnce * kMaxKernelRows];
  const Clamp clamp = clamp_of(Activation::kIdentity);
  SpatialArgs<float> s{};
  s.rows = pointers, s.rows_step = w.kernel_h, s.in_stride = kLanes;
  s.weights = weights + band.block * conv_.taps() * inputs() * kLanes, s.bias = zeros_.data();
  s.low = clamp.low, s.high = clamp.high;
  s.out_stride = in.plain() ? in.c : kLanes, s.out_row = in.w * s.out_stride, s.lanes = in.plain() ? lanes : kLanes;
  float* out = in.plain() ? results.input + position : scratch;
  const RunPlan<float> plan = plan_run(family_, turned_, in.w);
  for (int64_t y = band.first; y < band.end; y += kRowsAtOnce) {
    s.runs = std::min(kRowsAtOnce, band.end - y);
    for (int64_t i = 0; i < s.runs * w.kernel_h; ++i) {
      const int64_t above = y + i / w.kernel_h + w.top - (w.kernel_h - 1 - i % w.kernel_h) * w.dilation_h;
      const int64_t row = above / w.stride_h;
      const bool missing = above < 0 || above % w.stride_h || row >= conv_.out_h;
      pointers[i] = missing ? nullptr : dy + (row - band.first_out) * spread_w_ * kLanes;
    }
    s.out = out + (y - band.first) * s.out_row;
    convolve_run(plan, turned_, s, in.w);
  }
  if (in.plain()) return;
  NormArgs<float> n{};
  const int64_t channel = band.block * kLanes;
  n.x = in.x + position, n.x_stride = in.c, n.other = scratch, n.other_stride = kLanes;
  n.out = results.input + position, n.out_stride = in.c;
  n.pixels = (band.end - band.first) * in.w, n.channels = lanes;
  n.scale = in.scale + channel, n.shift = in.shift + channel, n.mean = in.mean + channel, n.activation = in.activation;
  n.sums = results.sums + band.image * 2 * in.c + channel, n.sums_stride = in.c;
  kernels_.activation_grad(n);
}

void NormedSpatial::turn_weights(const float* packed, float* turned) const {
  const int64_t taps = conv_.taps(), tap_floats = inputs() * kLanes;
  for (int64_t i = 0; i < conv_.blocks() * taps; ++i) {
    const float* from = packed + (i / taps * taps + taps - 1 - i % taps) * tap_floats;
    float* to = turned + i * tap_floats;
    if (!grouped()) {
      std::memcpy(to, from, kLanes * sizeof(float));
      continue;
    }
    for (int64_t k = 0; k < kGroupWidth; ++k) {
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        to[k * kLanes + lane] = from[lane % kGroupWidth * kLanes + lane / kGroupWidth * kGroupWidth + k];
      }
    }
  }
}

}  // namespace convfirst
