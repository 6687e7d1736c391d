// Tensors as the kernels see them: dense NHWC (channels_last) views and allocations through the stable ABI.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>

#include "../checks.h"
#include "huge_pages.h"
#include "microkernels/api.h"

namespace convfirst {

struct ImageView {
  const void* data;
  Storage storage;
  int64_t n, h, w, c;
  bool planar = false;  // NCHW: only a dense convolution reads such an image
};

inline int64_t storage_bytes(Storage storage) { return storage == Storage::kFloat32 ? 4 : 2; }

inline const void* offset(const void* data, Storage storage, int64_t elements) {
  return static_cast<const char*>(data) + elements * storage_bytes(storage);
}
inline void* offset(void* data, Storage storage, int64_t elements) {
  return static_cast<char*>(data) + elements * storage_bytes(storage);
}

inline ImageView view_nhwc(const Tensor& t, const char* name) {
  check_image(t, name);
  return {t.const_data_ptr(), storage_of(t, name), t.size(0), t.size(2), t.size(3), t.size(1)};
}

inline const float* view_floats(const Tensor& t, const char* name, int64_t count) {
  check_packed(t, name, count);
  return static_cast<const float*>(t.const_data_ptr());
}

inline Tensor empty_strided(const int64_t* sizes, const int64_t* strides, int64_t rank, int32_t dtype) {
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(rank, sizes, strides, dtype, aoti_torch_device_type_cpu(), 0, &handle));
  return Tensor(handle);
}

// How an (n, c, h, w) tensor in channels_last order lies.
struct NhwcLayout {
  NhwcLayout(int64_t n, int64_t c, int64_t h, int64_t w)
      : sizes{n, c, h, w}, strides{h * w * c, 1, w * c, c}, elements(n * c * h * w) {}
  const int64_t sizes[4], strides[4];
  const int64_t elements;
};

inline int32_t dtype_of(const Tensor& t) {
  int32_t dtype;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(t.get(), &dtype));
  return dtype;
}

// The data of a tensor that must match another in shape and dtype.
inline const void* view_like(const Tensor& t, const char* name, const Tensor& other) {
  check_image(t, name);
  STD_TORCH_CHECK(t.scalar_type() == other.scalar_type(), name, " must have the dtype of input.");
  for (int64_t i = 0; i < 4; ++i) {
    STD_TORCH_CHECK(t.size(i) == other.size(i), name, " must have the shape of the output.");
  }
  return t.const_data_ptr();
}

// An (n, c, h, w) tensor in channels_last order with the dtype of like.
inline Tensor empty_nhwc(const Tensor& like, int64_t n, int64_t c, int64_t h, int64_t w) {
  const NhwcLayout layout(n, c, h, w);
  Tensor out = empty_strided(layout.sizes, layout.strides, 4, dtype_of(like));
  constexpr int64_t kLarge = int64_t{4} << 20;
  const int64_t bytes = layout.elements * storage_bytes(storage_of(like, "input"));
  if (bytes >= kLarge) advise_huge_pages(out.mutable_data_ptr(), bytes);
  return out;
}

}  // namespace convfirst
