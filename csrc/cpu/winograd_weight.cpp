// The weights of Winograd convolutions, G g G^T of every kernel, packed like kernels of (m + 2)^2 elements: in float64
// where they are packed once, in fp32 where they change with every call, as in training.
#include <algorithm>
#include <cmath>
#include <vector>

#include "microkernels/isa.h"
#include "parallel.h"
#include "winograd.h"

namespace convfirst {
namespace {

constexpr int64_t kKernel = 3, kMostIn = 6;

// A filter value at each point: its powers, divided by the products of the point's distances from the others.
struct FilterMatrix {
  double rows[kMostIn][kKernel];
};

FilterMatrix filter_matrix(int64_t tile) {
  if (tile == 2) return {{{1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, 1}}};
  const double near = std::sqrt(0.5), far = std::sqrt(2.0);
  return {{{1, 0, 0},
           {-2.0 / 3, -2.0 / 3 * near, -1.0 / 3},
           {-2.0 / 3, 2.0 / 3 * near, -1.0 / 3},
           {1.0 / 6, far / 6, 1.0 / 3},
           {1.0 / 6, -far / 6, 1.0 / 3},
           {0, 0, 1}}};
}

// Sixteen output channels of one input channel: from and to the first of their elements, `step` floats between
// elements.
void transform(const FilterMatrix& g, int64_t in, const float* from, float* to, int64_t step) {
  double rows[kMostIn][kKernel][kLanes];
  for (int64_t i = 0; i < in; ++i) {
    for (int64_t column = 0; column < kKernel; ++column) {
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        double sum = 0;
        for (int64_t k = 0; k < kKernel; ++k) {
          sum += g.rows[i][k] * static_cast<double>(from[(k * kKernel + column) * step + lane]);
        }
        rows[i][column][lane] = sum;
      }
    }
  }
  for (int64_t i = 0; i < in; ++i) {
    for (int64_t j = 0; j < in; ++j) {
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        double sum = 0;
        for (int64_t k = 0; k < kKernel; ++k) sum += rows[i][k][lane] * g.rows[j][k];
        to[(i * in + j) * step + lane] = static_cast<float>(sum);
      }
    }
  }
}

// A block's kernels of one input channel side by side, as the filter's transform reads them.
class Kernels3x3 {
 public:
  explicit Kernels3x3(const Tensor& weight)
      : data_(static_cast<const float*>(weight.const_data_ptr())),
        out_(weight.stride(0)),
        in_(weight.stride(1)),
        row_(weight.stride(2)),
        column_(weight.stride(3)) {}

  void copy(int64_t first_out, int64_t lanes, int64_t channel, float* kernel) const {
    for (int64_t lane = 0; lane < lanes; ++lane) {
      const float* element = data_ + (first_out + lane) * out_ + channel * in_;
      for (int64_t r = 0; r < 3; ++r) {
        for (int64_t s = 0; s < 3; ++s) kernel[(r * 3 + s) * kLanes + lane] = element[r * row_ + s * column_];
      }
    }
  }

 private:
  const float* data_;
  int64_t out_, in_, row_, column_;
};

Tensor pack_winograd_weight(const Tensor weight, int64_t tile) {
  const WeightShape shape = weight_shape(weight);
  STD_TORCH_CHECK(tile == 2 || tile == 4, "tile must be 2 or 4, but is ", tile, ".");
  STD_TORCH_CHECK(shape.kernel_h == kKernel && shape.kernel_w == kKernel,
                  "weight must have 3x3 kernels for a Winograd convolution, but has ", shape.kernel_h, "x",
                  shape.kernel_w, ".");
  const int64_t in = tile + 2, step = shape.group_in * kLanes;
  std::vector<float> plain(static_cast<size_t>(shape.packed_floats()));
  pack_weight_into(weight, plain.data());
  Tensor packed = empty_packed({shape.out_c, shape.group_in, in, in});
  float* out = static_cast<float*>(packed.mutable_data_ptr());
  const FilterMatrix g = filter_matrix(tile);
  for_each_task(shape.blocks(), [&](int64_t block) {
    for (int64_t c = 0; c < shape.group_in; ++c) {
      const float* from = plain.data() + block * kKernel * kKernel * step + c * kLanes;
      transform(g, in, from, out + block * in * in * step + c * kLanes, step);
    }
  });
  return packed;
}

STABLE_TORCH_LIBRARY_IMPL(convfirst, CPU, m) { m.impl("pack_winograd_weight", TORCH_BOX(&pack_winograd_weight)); }

}  // namespace

void transform_weight(const Tensor& weight, float* packed) {
  constexpr int kOut = 4, kIn = kOut + 2;
  const WeightShape shape = weight_shape(weight);
  const WinogradFilterKernel<float> filter = kernels_for<float>().winograd_filter[kOut / 2 - 1];
  const Kernels3x3 kernels(weight);
  const int64_t step = shape.group_in * kLanes;
  for_each_task(shape.blocks(), [&](int64_t block) {
    float kernel[9 * kLanes] = {};
    const int64_t lanes = std::min<int64_t>(kLanes, shape.out_c - block * kLanes);
    for (int64_t c = 0; c < shape.group_in; ++c) {
      kernels.copy(block * kLanes, lanes, c, kernel);
      filter({kernel, packed + block * kIn * kIn * step + c * kLanes, step});
    }
  });
}

}  // namespace convfirst
