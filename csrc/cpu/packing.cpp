// Packs weights: see packing.h for the layout.
#include "packing.h"

#include <algorithm>
#include <cstring>

#include "microkernels/isa.h"
#include "parallel.h"

namespace convfirst {
namespace {

// Reads one element of a tensor in fp32.
class NarrowElements {
 public:
  NarrowElements(const Tensor& t, const char* name) : data_(t.const_data_ptr()), storage_(storage_of(t, name)) {}

  float operator[](int64_t i) const {
    float value;
    kernels_for<float>().widen[static_cast<int>(storage_)](offset(data_, storage_, i), &value, 1);
    return value;
  }

 private:
  const void* data_;
  Storage storage_;
};

constexpr int64_t kTileElements = 128;

// place(o, k) is where the kernel of an output and an input channel starts.
template <class Elements, class Place>
void pack_elements(const Elements& elements, const Tensor& weight, const WeightShape& s, const Place& place,
                   float* packed) {
  std::vector<int64_t> tap_offsets;
  for (int64_t r = 0; r < s.kernel_h; ++r) {
    for (int64_t q = 0; q < s.kernel_w; ++q) tap_offsets.push_back(r * weight.stride(2) + q * weight.stride(3));
  }
  const int64_t block_floats = s.kernel_h * s.kernel_w * s.group_in * kLanes;
  for_each_task(s.blocks(), [&](int64_t block) {
    const int64_t lanes = std::min<int64_t>(kLanes, s.out_c - block * kLanes);
    float* to = packed + block * block_floats;
    // A lane's elements of a few input channels at a time: its cache lines are then read once, whatever the strides.
    float tile[kTileElements][kLanes] = {};
    const int64_t taps = s.kernel_h * s.kernel_w, step = std::max<int64_t>(1, kTileElements / taps);
    for (int64_t first = 0; first < s.group_in; first += step) {
      const int64_t last = std::min(s.group_in, first + step);
      for (int64_t tap = 0; tap < taps; tap += kTileElements) {
        const int64_t end = std::min(taps, tap + kTileElements);
        for (int64_t l = 0; l < lanes; ++l) {
          float* value = &tile[0][l];
          for (int64_t k = first; k < last; ++k) {
            const int64_t start = place(block * kLanes + l, k);
            for (int64_t t = tap; t < end; ++t, value += kLanes) {
              *value = elements[start + tap_offsets[t]];
            }
          }
        }
        const float* value = tile[0];
        for (int64_t k = first; k < last; ++k) {
          for (int64_t t = tap; t < end; ++t, value += kLanes) {
            std::memcpy(to + (t * s.group_in + k) * kLanes, value, sizeof tile[0]);
          }
        }
      }
    }
  });
}

template <class Place>
void pack_into(const Tensor& weight, const WeightShape& s, const Place& place, float* packed) {
  if (storage_of(weight, "weight") == Storage::kFloat32) {
    pack_elements(static_cast<const float*>(weight.const_data_ptr()), weight, s, place, packed);
  } else {
    pack_elements(NarrowElements(weight, "weight"), weight, s, place, packed);
  }
}

Tensor pack_weight(const Tensor weight) {
  Tensor packed = empty_packed(weight_shape(weight));
  pack_weight_into(weight, static_cast<float*>(packed.mutable_data_ptr()));
  return packed;
}

Tensor pack_transposed_weight(const Tensor weight, int64_t groups) {
  const WeightShape w = weight_shape(weight);
  STD_TORCH_CHECK(groups > 0 && w.out_c % groups == 0, "groups must divide the ", w.out_c, " input channels, but is ",
                  groups, ".");
  Tensor packed = empty_packed({w.group_in * groups, w.out_c / groups, w.kernel_h, w.kernel_w});
  pack_transposed_weight_into(weight, groups, static_cast<float*>(packed.mutable_data_ptr()));
  return packed;
}

// Fresh memory for the weights of a whole network.
Tensor empty_weights(int64_t elements, bool half) {
  STD_TORCH_CHECK(elements >= 0, "elements must be 0 or more, but is ", elements, ".");
  const int64_t strides[] = {1};
  const int32_t dtype = half ? aoti_torch_dtype_float16() : aoti_torch_dtype_float32();
  Tensor out = empty_strided(&elements, strides, 1, dtype);
  advise_huge_pages(out.mutable_data_ptr(), elements * (half ? 2 : 4));
  return out;
}

// Whether fp16 products take one instruction here.
bool multiplies_half() { return kernels().half_arithmetic == HalfArithmetic::kNative; }

}  // namespace

Tensor empty_packed(const WeightShape& shape) {
  const int64_t sizes[] = {shape.blocks(), shape.kernel_h, shape.kernel_w, shape.group_in, kLanes};
  int64_t strides[5] = {0, 0, 0, kLanes, 1};
  for (int i = 2; i >= 0; --i) strides[i] = strides[i + 1] * sizes[i + 1];
  Tensor packed = empty_strided(sizes, strides, 5, aoti_torch_dtype_float32());
  constexpr int64_t kLarge = int64_t{1} << 20;
  if (shape.packed_floats() >= kLarge) advise_huge_pages(packed.mutable_data_ptr(), shape.packed_floats() * 4);
  return packed;
}

WeightShape weight_shape(const Tensor& weight) {
  STD_TORCH_CHECK(weight.is_cpu(), "weight must be a CPU tensor.");
  STD_TORCH_CHECK(weight.dim() == 4, "weight must have 4 dimensions (O, C / groups, R, S), but has ", weight.dim(),
                  ".");
  return {weight.size(0), weight.size(1), weight.size(2), weight.size(3)};
}

void pack_weight_into(const Tensor& weight, float* packed) {
  const int64_t out = weight.stride(0), in = weight.stride(1);
  pack_into(weight, weight_shape(weight), [=](int64_t o, int64_t k) { return o * out + k * in; }, packed);
}

void pack_transposed_weight_into(const Tensor& weight, int64_t groups, float* packed) {
  const WeightShape w = weight_shape(weight);
  const int64_t in = weight.stride(0), out = weight.stride(1), group_out = w.group_in, group_in = w.out_c / groups;
  const WeightShape shape{group_out * groups, group_in, w.kernel_h, w.kernel_w};
  const auto place = [=](int64_t o, int64_t k) { return (o / group_out * group_in + k) * in + o % group_out * out; };
  pack_into(weight, shape, place, packed);
}

std::vector<float> padded_bias(const std::optional<Tensor>& bias, int64_t out_c) {
  std::vector<float> padded(static_cast<size_t>(ceil_div(out_c, kLanes) * kLanes), 0.0f);
  if (!bias) return padded;
  STD_TORCH_CHECK(bias->is_cpu() && bias->dim() == 1 && bias->size(0) == out_c, "bias must be a CPU tensor of ", out_c,
                  " elements.");
  const NarrowElements elements(*bias, "bias");
  for (int64_t c = 0; c < out_c; ++c) padded[c] = elements[c * bias->stride(0)];
  return padded;
}

STABLE_TORCH_LIBRARY_IMPL(convfirst, CPU, m) {
  m.impl("pack_weight", TORCH_BOX(&pack_weight));
  m.impl("pack_transposed_weight", TORCH_BOX(&pack_transposed_weight));
}
STABLE_TORCH_LIBRARY_IMPL(convfirst, CompositeExplicitAutograd, m) {
  m.impl("empty_weights", TORCH_BOX(&empty_weights));
  m.impl("multiplies_half", TORCH_BOX(&multiplies_half));
}

}  // namespace convfirst
