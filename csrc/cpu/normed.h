// Convolutions of training between two batch norms. The norm of the input (with the batch's own statistics), its
// activation and a gate are applied to pixels on their way into the cache; the output is left as the convolution gave
// it, and the sums for its own norm are collected while it is still there. So between two convolutions one tensor is
// written and read instead of three, and it is all that the backward pass needs to keep.
//
// All fp32, NHWC. Sums are taken part by part, parts depend on shapes only: any number of threads gives the same bits.
#pragma once

#include "convolution_op.h"

namespace convfirst {

inline float* data_of(Tensor& t) { return static_cast<float*>(t.mutable_data_ptr()); }

inline Tensor empty_floats(int64_t rows, int64_t columns) {
  const int64_t sizes[] = {rows, columns}, strides[] = {columns, 1};
  return empty_strided(sizes, strides, 2, aoti_torch_dtype_float32());
}

struct NormedInput {
  const float* x;
  int64_t n, h, w, c;
  const float *scale, *shift, *mean;  // of its norm, one a channel; nullptr: x is taken as it is
  const float* gate;                  // (n, c) behind the activation; nullptr: none
  Activation activation;

  bool plain() const { return !scale; }
  int64_t pixels() const { return h * w; }
};

struct NormedConv {
  NormedInput in;
  Window window;
  int64_t groups, out_h, out_w, out_c;

  int64_t blocks() const { return ceil_div(out_c, kLanes); }
  int64_t group_in() const { return in.c / groups; }
  int64_t taps() const { return window.kernel_h * window.kernel_w; }
  int64_t lanes(int64_t block) const { return std::min<int64_t>(kLanes, out_c - block * kLanes); }
};

// The gradient of a convolution's output y: factors[0] * grad + factors[1] * y + factors[2], rows of out_c; or grad
// itself where y is nullptr.
struct NormedGrad {
  const float *grad, *y, *factors;
};

// Adds up, in double, what parts left: [parts][floats] into [floats].
inline void add_parts(const float* values, int64_t parts, int64_t floats, float* out) {
  for (int64_t i = 0; i < floats; ++i) {
    double sum = 0.0;
    for (int64_t part = 0; part < parts; ++part) sum += values[part * floats + i];
    out[i] = static_cast<float>(sum);
  }
}

// Where a backward pass leaves its results; sums and weights in parts.
struct NormedResults {
  float* input;      // the gradient of the input's norm (plain: of the input; with a gate: of what it gave); or nullptr
  float* weights;    // [part][weight_floats]
  float* sums;       // [part][2][c], of the input's gradient and of its products with x - mean
  float* gate_sums;  // (n, c)
};

// Sums of a batch's pixels that give their mean and variance: [part][pivot, sum, squares][channels].
class ChannelMoments {
 public:
  ChannelMoments(int64_t parts, int64_t channels, float* values)
      : parts_(parts), channels_(channels), values_(values) {}
  static int64_t floats(int64_t parts, int64_t channels) { return parts * 3 * channels; }

  // Adds pixels of some channels to a part; the first call of a part and a channel says so.
  void add(int64_t part, bool is_first, const float* x, int64_t stride, int64_t pixels, int64_t channel,
           int64_t channels) const;
  // pixels(part) is how many a part has seen. The variance is that of the batch, not an estimate of another's.
  template <class Pixels>
  void finish(const Pixels& pixels, float* mean, float* variance) const;

 private:
  int64_t parts_, channels_;
  float* values_;
};

// Either kind of convolution: all channels of a pixel at a time, or a block of channels at a time.
class NormedPointwise {
 public:
  explicit NormedPointwise(const NormedConv& conv);
  int64_t parts() const { return parts_; }
  int64_t pixels(int64_t part) const { return last_pixel(part) - first_pixel(part); }
  int64_t weight_floats() const { return conv_.blocks() * conv_.in.c * kLanes; }
  // Weights with whole blocks of input channels, zeros added, as panels of pixels want them.
  static int64_t filled_floats(int64_t in_c, int64_t out_c);
  static void fill_up(const float* packed, int64_t in_c, int64_t out_c, float* filled);
  void forward(const float* weights, float* out, const ChannelMoments& moments) const;
  // `weights` are those of the transposed product.
  void backward(const float* weights, const NormedGrad& grad, const NormedResults& results) const;
  // Element (o, k, tap) of a part's weight gradient.
  int64_t position(int64_t o, int64_t k, int64_t tap) const;

 private:
  struct Band {
    int64_t first, pixels, image;
  };
  int64_t first_pixel(int64_t part) const { return std::min(all_, units_ * part / parts_ * unit_); }
  int64_t last_pixel(int64_t part) const { return std::min(all_, units_ * (part + 1) / parts_ * unit_); }
  template <class Body>
  void for_bands(int64_t part, const Body& body) const;
  void gather(const Band& band, float* panels) const;
  void gather_grad(const NormedGrad& grad, const Band& band, float* panels) const;
  void multiply_panels(const float* panels, int64_t in_c, const float* weights, int64_t out_c, int64_t pixels,
                       float* out) const;
  void add_weight_grad(const float* a, const float* dy, int64_t pixels, float* sums) const;
  void input_grad(const float* weights, const float* dy, const Band& band, float* scratch, int64_t part,
                  const NormedResults& results) const;

  const NormedConv& conv_;
  const Kernels<float>& kernels_;
  const int64_t all_;           // pixels of the batch
  const int64_t band_;          // pixels whose values fit the L2 cache
  const int64_t unit_, units_;  // pixels that a part takes or leaves as a whole
  const int64_t parts_;
  const std::vector<float> ones_, zeros_;
};

class NormedSpatial {
 public:
  explicit NormedSpatial(const NormedConv& conv);
  int64_t parts() const { return conv_.in.n; }
  int64_t pixels(int64_t) const { return conv_.out_h * conv_.out_w; }
  int64_t weight_floats() const { return conv_.blocks() * conv_.taps() * inputs() * kLanes; }
  void forward(const float* weights, float* out, const ChannelMoments& moments) const;
  // `weights` are turned and transposed.
  void backward(const float* weights, const NormedGrad& grad, const NormedResults& results) const;
  int64_t position(int64_t o, int64_t k, int64_t tap) const;
  // Weights as the data gradient wants them, from those of the forward pass.
  void turn_weights(const float* packed, float* turned) const;

 private:
  struct Band {
    int64_t image, block, first, end;  // of input rows
    int64_t first_out, end_out;        // outputs that see them
  };
  bool grouped() const { return conv_.group_in() > 1; }
  int64_t inputs() const { return conv_.group_in(); }
  template <class Body>
  void for_images(const Body& body) const;
  void run_band(int64_t image, int64_t block, int64_t y0, int64_t y1, const float* weights, float* out) const;
  void gather(const float* x, int64_t stride, int64_t pixels, int64_t image, int64_t block, float* out) const;
  void backward_band(const Band& band, const float* weights, const NormedGrad& grad,
                     const NormedResults& results) const;
  void gather_grad(const Band& band, const NormedGrad& grad, float* out) const;
  void add_weight_grad(const Band& band, const float* a, const float* dy, float* sums) const;
  void add_three_columns(const Band& band, const float* a, const float* dy, std::vector<int64_t>& runs,
                         float* sums) const;
  void input_grad(const Band& band, const float* dy, const float* weights, float* scratch,
                  const NormedResults& results) const;

  const NormedConv& conv_;
  const Window turned_;  // of the data gradient: stride one, over outputs spread by the stride
  const Kernels<float>& kernels_;
  const SpatialFamily<float>& family_;
  const int64_t padded_w_, spread_w_;
  const bool three_columns_;
  const std::vector<float> ones_, zeros_;
};

template <class Pixels>
void ChannelMoments::finish(const Pixels& pixels, float* mean, float* variance) const {
  for (int64_t c = 0; c < channels_; ++c) {
    double count = 0.0, sum = 0.0, squares = 0.0;
    for (int64_t part = 0; part < parts_; ++part) {
      const float* v = values_ + part * 3 * channels_ + c;
      const double n = static_cast<double>(pixels(part)), of_part = v[0] + v[channels_] / n;
      squares += v[2 * channels_] - static_cast<double>(v[channels_]) * v[channels_] / n;
      // Chan, Golub, LeVeque: the squares of two parts and of the distance between their means.
      const double distance = count > 0.0 ? of_part - sum / count : 0.0;
      squares += distance * distance * count * n / (count + n);
      count += n, sum += of_part * n;
    }
    mean[c] = static_cast<float>(sum / count);
    variance[c] = static_cast<float>(squares / count);
  }
}

}  // namespace convfirst
