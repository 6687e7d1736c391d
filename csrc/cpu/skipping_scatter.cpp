// Zero-skipping convolution to few output channels, the last layer of a generator or a decoder. As a product its lanes
// would be empty, so every input pixel is multiplied with all kernel elements of all output channels at once, and an
// output pixel adds up the products that its taps name. A band of output rows at a time: its products stay in the L2
// cache.
#include <algorithm>
#include <cstring>

#include "microkernels/isa.h"
#include "multiply.h"
#include "parallel.h"
#include "skipping_conv.h"

namespace convfirst {
namespace {

constexpr int64_t kMostChannels = 8;
constexpr int64_t kProductFloats = 96 * 1024;
// An addition takes about as long as this many multiply-adds of a product.
constexpr int64_t kAdditionCost = 24;

int64_t taps_of(const std::vector<AxisRun>& runs) {
  int64_t taps = 0;
  for (const AxisRun& run : runs) taps += run.count * run.taps;
  return taps;
}

class SkippingScatter {
 public:
  explicit SkippingScatter(const SkippingConv& conv)
      : conv_(conv),
        kernels_(kernels_for<float>()),
        products_(conv.kernel_h * conv.kernel_w * conv.out_c),
        padded_(ceil_div(products_, kLanes) * kLanes),
        lines_(conv.rows, conv.in.h, conv.out_h),
        band_(lines_.band(kProductFloats / std::max<int64_t>(1, conv.in.w * padded_))),
        most_rows_(lines_.most_reached(band_)) {}

  void run() const {
    // [element and channel / 16][k][16], out of [1][kh][kw][k][16].
    float* weights = call_scratch(padded_ * conv_.in.c + kLanes);
    float* zeros = weights + padded_ * conv_.in.c;
    std::memset(weights, 0, static_cast<size_t>(padded_ * conv_.in.c + kLanes) * sizeof(float));
    for (int64_t p = 0; p < products_; ++p) {
      const float* source = conv_.weights + p / conv_.out_c * conv_.in.c * kLanes + p % conv_.out_c;
      float* target = weights + p / kLanes * conv_.in.c * kLanes + p % kLanes;
      for (int64_t k = 0; k < conv_.in.c; ++k) target[k * kLanes] = source[k * kLanes];
    }
    const int64_t bands = ceil_div(conv_.out_h, band_);
    for_each_task(conv_.in.n * bands, [&](int64_t task) {
      const int64_t y0 = task % bands * band_;
      run_band(task / bands, y0, std::min(conv_.out_h, y0 + band_), weights, zeros);
    });
  }

 private:
  void run_band(int64_t image, int64_t y0, int64_t y1, const float* weights, const float* zeros) const {
    const AxisLines::Reach reach = lines_.reach(y0, y1);
    const int64_t row_products = conv_.in.w * padded_, widened = conv_.in.w * conv_.in.c;
    float* products = task_scratch(most_rows_ * row_products + conv_.out_w * conv_.out_c + widened);
    float* sums = products + most_rows_ * row_products;
    for (int64_t row = reach.first; row < reach.end; ++row) {
      float* copy = sums + conv_.out_w * conv_.out_c;
      multiply_row(image, row, weights, zeros, copy, products + (row - reach.first) * row_products);
    }
    for (int64_t y = y0; y < y1; ++y) {
      add_row(y, products - reach.first * row_products, sums);
      store_row((image * conv_.out_h + y) * conv_.out_w * conv_.out_c, sums);
    }
  }

  void multiply_row(int64_t image, int64_t row, const float* weights, const float* zeros, float* copy,
                    float* products) const {
    static constexpr int64_t kNoOffset[] = {0};
    const Storage storage = conv_.in.storage;
    const void* source = offset(conv_.in.data, storage, (image * conv_.in.h + row) * conv_.in.w * conv_.in.c);
    if (storage != Storage::kFloat32) {
      kernels_.widen[static_cast<int>(storage)](source, copy, conv_.in.w * conv_.in.c);
      source = copy;
    }
    const Clamp none = clamp_of(Activation::kIdentity);
    GemmArgs<float> g{};
    g.a = static_cast<const float*>(source), g.a_stride = conv_.in.c;
    g.taps = kNoOffset, g.tap_count = 1, g.depth = conv_.in.c;
    g.b = weights, g.b_block = conv_.in.c * kLanes, g.init = zeros;
    g.c = products, g.c_stride = padded_, g.c_block = kLanes;
    g.low = none.low, g.high = none.high, g.last_lanes = kLanes;
    multiply(kernels_, g, conv_.in.w, padded_ / kLanes);
  }

  // `products` is where those of input row 0 would lie.
  void add_row(int64_t y, const float* products, float* sums) const {
    switch (conv_.out_c) {
      case 1: return add_channels<1>(y, products, sums);
      case 2: return add_channels<2>(y, products, sums);
      case 3: return add_channels<3>(y, products, sums);
      case 4: return add_channels<4>(y, products, sums);
      default: return add_channels<0>(y, products, sums);
    }
  }

  // kChannels output channels, 0: any number of them.
  template <int64_t kChannels>
  void add_channels(int64_t y, const float* products, float* sums) const {
    const int64_t channels = kChannels ? kChannels : conv_.out_c;
    for (int64_t x = 0; x < conv_.out_w; ++x) {
      for (int64_t c = 0; c < channels; ++c) sums[x * channels + c] = conv_.bias[c];
    }
    const AxisLines::Line& line = lines_[y];
    const AxisRun& run = conv_.rows[line.run];
    for (int64_t ty = 0; ty < run.taps; ++ty) {
      const float* row = products + run.input(line.index, ty) * conv_.in.w * padded_;
      for (const AxisRun& column : conv_.columns) {
        for (int64_t tx = 0; tx < column.taps; ++tx) {
          const int64_t element = run.element(ty) * conv_.kernel_w + column.element(tx);
          const float* value = row + column.input(0, tx) * padded_ + element * channels;
          float* sum = sums + column.out * channels;
          const int64_t step = column.in_step * padded_, out_step = column.out_step * channels;
          for (int64_t i = 0; i < column.count; ++i, value += step, sum += out_step) {
            for (int64_t c = 0; c < channels; ++c) sum[c] += value[c];
          }
        }
      }
    }
  }

  void store_row(int64_t position, const float* sums) const {
    const Storage storage = conv_.in.storage;
    FinishArgs<float> f{};
    f.in = sums, f.in_stride = conv_.out_c, f.out = offset(conv_.out, storage, position), f.out_stride = conv_.out_c;
    f.residual = conv_.residual ? offset(conv_.residual, storage, position) : nullptr;
    f.residual_stride = conv_.out_c, f.pixels = conv_.out_w, f.channels = conv_.out_c;
    f.activation = conv_.activation;
    kernels_.finish[static_cast<int>(storage)](f);
  }

  const SkippingConv& conv_;
  const Kernels<float>& kernels_;
  const int64_t products_;  // an input pixel
  const int64_t padded_;
  const AxisLines lines_;
  const int64_t band_, most_rows_;
};

}  // namespace

bool scatter_is_cheaper(const SkippingConv& conv) {
  if (conv.groups != 1 || conv.out_c > kMostChannels) return false;
  const int64_t taps = taps_of(conv.rows) * taps_of(conv.columns);
  const int64_t padded = ceil_div(conv.kernel_h * conv.kernel_w * conv.out_c, kLanes) * kLanes;
  const int64_t scattered = conv.in.h * conv.in.w * conv.in.c * padded + taps * conv.out_c * kAdditionCost;
  return scattered < taps * conv.in.c * kNarrowLanes;
}

void run_skipping_scatter(const SkippingConv& conv) { SkippingScatter(conv).run(); }

}  // namespace convfirst
