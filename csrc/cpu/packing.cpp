// Packs weights: see packing.h for the layout.
#include "packing.h"

#include <cstring>

#include "microkernels/isa.h"

namespace convfirst {
namespace {

// Reads one element of a tensor in fp32.
class Elements {
 public:
  Elements(const Tensor& t, const char* name) : data_(t.const_data_ptr()), storage_(storage_of(t, name)) {}

  float operator[](int64_t i) const {
    float value;
    kernels().widen[static_cast<int>(storage_)](offset(data_, storage_, i), &value, 1);
    return value;
  }

 private:
  const void* data_;
  Storage storage_;
};

Tensor pack_weight(const Tensor weight) {
  const WeightShape shape = weight_shape(weight);
  const int64_t sizes[] = {shape.blocks(), shape.kernel_h, shape.kernel_w, shape.group_in, kLanes};
  int64_t strides[5] = {0, 0, 0, kLanes, 1};
  for (int i = 2; i >= 0; --i) strides[i] = strides[i + 1] * sizes[i + 1];
  Tensor packed = empty_strided(sizes, strides, 5, aoti_torch_dtype_float32());
  pack_weight_into(weight, static_cast<float*>(packed.mutable_data_ptr()));
  return packed;
}

// Fresh memory for the weights of a whole network.
Tensor empty_weights(int64_t floats) {
  STD_TORCH_CHECK(floats >= 0, "floats must be 0 or more, but is ", floats, ".");
  const int64_t strides[] = {1};
  Tensor out = empty_strided(&floats, strides, 1, aoti_torch_dtype_float32());
  advise_huge_pages(out.mutable_data_ptr(), floats * 4);
  return out;
}

}  // namespace

WeightShape weight_shape(const Tensor& weight) {
  STD_TORCH_CHECK(weight.is_cpu(), "weight must be a CPU tensor.");
  STD_TORCH_CHECK(weight.dim() == 4, "weight must have 4 dimensions (O, C / groups, R, S), but has ", weight.dim(),
                  ".");
  return {weight.size(0), weight.size(1), weight.size(2), weight.size(3)};
}

void pack_weight_into(const Tensor& weight, float* packed) {
  const WeightShape s = weight_shape(weight);
  const Elements elements(weight, "weight");
  const int64_t tap_floats = s.group_in * kLanes, block_floats = s.kernel_h * s.kernel_w * tap_floats;
  std::memset(packed, 0, static_cast<size_t>(s.packed_floats()) * sizeof(float));
  for (int64_t o = 0; o < s.out_c; ++o) {
    float* lane = packed + o / kLanes * block_floats + o % kLanes;
    for (int64_t k = 0; k < s.group_in; ++k) {
      for (int64_t r = 0; r < s.kernel_h; ++r) {
        const int64_t row = o * weight.stride(0) + k * weight.stride(1) + r * weight.stride(2);
        for (int64_t q = 0; q < s.kernel_w; ++q) {
          lane[(r * s.kernel_w + q) * tap_floats + k * kLanes] = elements[row + q * weight.stride(3)];
        }
      }
    }
  }
}

std::vector<float> padded_bias(const std::optional<Tensor>& bias, int64_t out_c) {
  std::vector<float> padded(static_cast<size_t>(ceil_div(out_c, kLanes) * kLanes), 0.0f);
  if (!bias) return padded;
  STD_TORCH_CHECK(bias->is_cpu() && bias->dim() == 1 && bias->size(0) == out_c, "bias must be a CPU tensor of ", out_c,
                  " elements.");
  const Elements elements(*bias, "bias");
  for (int64_t c = 0; c < out_c; ++c) padded[c] = elements[c * bias->stride(0)];
  return padded;
}

STABLE_TORCH_LIBRARY_IMPL(convfirst, CPU, m) { m.impl("pack_weight", TORCH_BOX(&pack_weight)); }
STABLE_TORCH_LIBRARY_IMPL(convfirst, CompositeExplicitAutograd, m) {
  m.impl("empty_weights", TORCH_BOX(&empty_weights));
}

}  // namespace convfirst
