// Pointwise convolution between two batch norms: bands of pixels whose operand, output and gradients fit the L2 cache.
#include <algorithm>
#include <cstring>

#include "microkernels/isa.h"
#include "multiply.h"
#include "normed.h"
#include "parallel.h"

namespace convfirst {
namespace {

constexpr int64_t kBandFloats = 96 * 1024;
constexpr int64_t kTileRows = 28;
constexpr int64_t kGroupPixels = 64;  // summed in registers before they join the weight gradient
constexpr int64_t kMostParts = 16, kLeastParts = 4;
constexpr int64_t kPartialBytes = int64_t{4} << 20;  // of all parts' weight gradients

int64_t panel_channels(int64_t channels) { return ceil_div(channels, kPanel) * kPanel; }

int64_t band_pixels(const NormedConv& conv) {
  const int64_t fitting = kBandFloats / (2 * conv.in.c + conv.out_c);
  return std::clamp<int64_t>(fitting / kTileRows * kTileRows, 2 * kTileRows, 16 * kTileRows);
}

int64_t most_parts(int64_t weight_floats) {
  return std::clamp<int64_t>(kPartialBytes / (weight_floats * int64_t{sizeof(float)}), kLeastParts, kMostParts);
}

}  // namespace

NormedPointwise::NormedPointwise(const NormedConv& conv)
    : conv_(conv),
      kernels_(kernels_for<float>()),
      all_(conv.in.n * conv.in.pixels()),
      band_(band_pixels(conv)),
      unit_(conv.in.gate ? conv.in.pixels() : band_),
      units_(ceil_div(all_, unit_)),
      parts_(std::min(units_, most_parts(weight_floats()))),
      ones_(static_cast<size_t>(std::max(conv.in.c, conv.out_c)), 1.0f),
      zeros_(static_cast<size_t>(ceil_div(std::max(conv.in.c, conv.out_c), kLanes) * kLanes), 0.0f) {}

int64_t NormedPointwise::filled_floats(int64_t in_c, int64_t out_c) {
  return ceil_div(out_c, kLanes) * ceil_div(in_c, kLanes) * kLanes * kLanes;
}

void NormedPointwise::fill_up(const float* packed, int64_t in_c, int64_t out_c, float* filled) {
  const int64_t rows = ceil_div(in_c, kLanes) * kLanes;
  for (int64_t block = 0; block < ceil_div(out_c, kLanes); ++block) {
    float* to = filled + block * rows * kLanes;
    std::memcpy(to, packed + block * in_c * kLanes, static_cast<size_t>(in_c * kLanes) * sizeof(float));
    std::memset(to + in_c * kLanes, 0, static_cast<size_t>((rows - in_c) * kLanes) * sizeof(float));
  }
}

// A gate belongs to an image, so bands then end with it.
template <class Body>
void NormedPointwise::for_bands(int64_t part, const Body& body) const {
  const int64_t of_image = conv_.in.pixels(), end = last_pixel(part);
  for (int64_t p = first_pixel(part); p < end;) {
    const int64_t image = p / of_image;
    const int64_t limit = conv_.in.gate ? std::min(end, (image + 1) * of_image) : end;
    const Band band{p, std::min(band_, limit - p), image};
    body(band);
    p += band.pixels;
  }
}

// The operand's pixels, in panels.
void NormedPointwise::gather(const Band& band, float* panels) const {
  const NormedInput& in = conv_.in;
  NormArgs<float> n{};
  n.x = in.x + band.first * in.c, n.x_stride = n.channels = in.c, n.pixels = band.pixels;
  n.out = panels, n.out_stride = kPanel, n.out_panel = band_ * kPanel;
  n.scale = in.plain() ? ones_.data() : in.scale, n.shift = in.plain() ? zeros_.data() : in.shift;
  n.activation = in.activation, n.gate = in.gate ? in.gate + band.image * in.c : nullptr;
  kernels_.apply_norm(n);
}

void NormedPointwise::gather_grad(const NormedGrad& grad, const Band& band, float* panels) const {
  const int64_t channels = conv_.out_c, position = band.first * channels;
  NormArgs<float> n{};
  n.x = (grad.y ? grad.y : grad.grad) + position, n.x_stride = n.other_stride = n.channels = channels;
  n.out = panels, n.out_stride = kPanel, n.out_panel = band_ * kPanel, n.pixels = band.pixels;
  if (!grad.y) {
    n.scale = ones_.data(), n.shift = zeros_.data(), n.activation = Activation::kIdentity;
    return kernels_.apply_norm(n);
  }
  n.other = grad.grad + position;
  n.scale = grad.factors, n.gate = grad.factors + channels, n.shift = grad.factors + 2 * channels;
  kernels_.combine(n);
}

void NormedPointwise::multiply_panels(const float* panels, int64_t in_c, const float* weights, int64_t out_c,
                                      int64_t pixels, float* out) const {
  const int64_t blocks = ceil_div(out_c, kLanes), depth = ceil_div(in_c, kLanes);
  std::vector<int64_t> taps(static_cast<size_t>(depth));
  for (int64_t k = 0; k < depth; ++k) taps[k] = k * kLanes / kPanel * band_ * kPanel + k * kLanes % kPanel;
  const Clamp clamp = clamp_of(Activation::kIdentity);
  GemmArgs<float> g{};
  g.a = panels, g.a_stride = kPanel, g.taps = taps.data(), g.tap_count = depth, g.depth = kLanes;
  g.b = weights, g.b_block = depth * kLanes * kLanes, g.init = zeros_.data(), g.init_block = kLanes;
  g.c = out, g.c_stride = out_c, g.c_block = kLanes;
  g.low = clamp.low, g.high = clamp.high, g.last_lanes = out_c - (blocks - 1) * kLanes;
  multiply(kernels_, g, pixels, blocks);
}

void NormedPointwise::forward(const float* weights, float* out, const ChannelMoments& moments) const {
  const int64_t channels = conv_.out_c;
  for_each_task(parts_, [&](int64_t part) {
    float* panels = task_scratch(band_ * panel_channels(conv_.in.c));
    for_bands(part, [&](const Band& band) {
      float* y = out + band.first * channels;
      gather(band, panels);
      multiply_panels(panels, conv_.in.c, weights, channels, band.pixels, y);
      moments.add(part, band.first == first_pixel(part), y, channels, band.pixels, 0, channels);
    });
  });
}

void NormedPointwise::backward(const float* weights, const NormedGrad& grad, const NormedResults& results) const {
  const int64_t in_c = conv_.in.c, floats = weight_floats();
  for_each_task(parts_, [&](int64_t part) {
    float* a = task_scratch(band_ * (panel_channels(in_c) + panel_channels(conv_.out_c) + in_c));
    float* dy = a + band_ * panel_channels(in_c);
    float* da = dy + band_ * panel_channels(conv_.out_c);
    std::memset(results.weights + part * floats, 0, static_cast<size_t>(floats) * sizeof(float));
    std::memset(results.sums + part * 2 * in_c, 0, static_cast<size_t>(2 * in_c) * sizeof(float));
    for_bands(part, [&](const Band& band) {
      gather(band, a);
      gather_grad(grad, band, dy);
      add_weight_grad(a, dy, band.pixels, results.weights + part * floats);
      if (results.input) input_grad(weights, dy, band, da, part, results);
    });
  });
}

// [block of outputs][input channel][16] += sum over pixels of a and dy.
void NormedPointwise::add_weight_grad(const float* a, const float* dy, int64_t pixels, float* sums) const {
  const int64_t in_c = conv_.in.c, blocks = conv_.blocks(), panel = band_ * kPanel, start = 0;
  const int64_t pair = kernels_.outer[1][0] ? 2 : 1;
  int64_t most = kMaxOuterRows;
  while (!kernels_.outer[pair - 1][most - 1]) --most;
  OuterArgs<float> o{};
  o.a_step = o.b_step = kPanel, o.a_runs = o.b_runs = &start, o.run_count = 1, o.c_block = in_c * kLanes;
  o.last_lanes = kLanes;
  for (int64_t p = 0; p < pixels; p += kGroupPixels) {
    o.pixels = std::min(kGroupPixels, pixels - p);
    for (int64_t block = 0; block < blocks; block += pair) {
      const int64_t count = std::min(pair, blocks - block);
      o.b = dy + block * kLanes / kPanel * panel + p * kPanel + block * kLanes % kPanel;
      for (int64_t k = 0; k < in_c; k += kPanel) {
        const int64_t rows = std::min<int64_t>(kPanel, in_c - k), tiles = ceil_div(rows, most);
        for (int64_t tile = 0; tile < tiles; ++tile) {
          const int64_t row = rows * tile / tiles, end = rows * (tile + 1) / tiles;
          o.a = a + k / kPanel * panel + p * kPanel + row, o.c = sums + (block * in_c + k + row) * kLanes;
          kernels_.outer[count - 1][end - row - 1](o);
        }
      }
    }
  }
}

int64_t NormedPointwise::position(int64_t o, int64_t k, int64_t) const {
  return (o / kLanes * conv_.in.c + k) * kLanes + o % kLanes;
}

void NormedPointwise::input_grad(const float* weights, const float* dy, const Band& band, float* scratch, int64_t part,
                                 const NormedResults& results) const {
  const NormedInput& in = conv_.in;
  float* out = results.input + band.first * in.c;
  const bool direct = in.plain() || in.gate;
  float* da = direct ? out : scratch;
  multiply_panels(dy, conv_.out_c, weights, in.c, band.pixels, da);
  if (in.plain()) return;
  NormArgs<float> n{};
  n.x = in.x + band.first * in.c, n.other = da, n.out = out;
  n.x_stride = n.other_stride = n.out_stride = n.channels = in.c, n.pixels = band.pixels;
  n.scale = in.scale, n.shift = in.shift, n.mean = in.mean, n.activation = in.activation;
  n.sums = in.gate ? results.gate_sums + band.image * in.c : results.sums + part * 2 * in.c, n.sums_stride = in.c;
  in.gate ? kernels_.gate_grad(n) : kernels_.activation_grad(n);
}

}  // namespace convfirst
