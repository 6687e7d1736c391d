// Tensors as CUDA kernels take them, and what every CUDA operator checks first.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <initializer_list>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "../checks.h"
#include "device/launch.cuh"
#include "window.h"

// The emulator runs the operators, these checks included, on CPU tensors.
#ifdef CONVFIRST_EMULATE
#define CONVFIRST_DEVICE_KEY CPU
#else
#define CONVFIRST_NAMESPACE convfirst
#define CONVFIRST_DEVICE_KEY CUDA
#endif
#define CONVFIRST_CUDA_OPERATORS(m) STABLE_TORCH_LIBRARY_IMPL(CONVFIRST_NAMESPACE, CONVFIRST_DEVICE_KEY, m)

namespace convfirst::cuda {

using Ints = std::vector<int64_t>;
using OptionalTensor = std::optional<Tensor>;

static_assert(static_cast<int>(Storage::kFloat16) == static_cast<int>(convfirst::Storage::kFloat16) &&
              static_cast<int>(Storage::kBFloat16) == static_cast<int>(convfirst::Storage::kBFloat16));
static_assert(static_cast<int>(Activation::kHardsigmoid) == static_cast<int>(convfirst::Activation::kHardsigmoid));

inline Storage storage_of(const Tensor& t, const char* name) {
  return static_cast<Storage>(convfirst::storage_of(t, name));
}

inline Activation activation_of(const std::string& name) {
  return static_cast<Activation>(convfirst::activation_of(name, "activation"));
}

inline void check_device(const Tensor& t, const char* name) {
#ifdef CONVFIRST_EMULATE
  STD_TORCH_CHECK(t.is_cpu(), name, " must be a CPU tensor.");
#else
  STD_TORCH_CHECK(t.is_cuda(), name, " must be a CUDA tensor.");
#endif
}

inline int to_int(int64_t value, const char* name) {
  STD_TORCH_CHECK(value >= 0 && value <= std::numeric_limits<int>::max() / 8, name, " must be below 2^28, but is ",
                  value, ".");
  return static_cast<int>(value);
}

inline Buffer buffer_of(const Tensor& t, int64_t element_bytes) {
  return {const_cast<void*>(t.const_data_ptr()), t.numel() * element_bytes};
}

inline int64_t element_bytes(Storage storage) { return storage == Storage::kFloat32 ? 4 : 2; }

// A dense NHWC image and its size.
struct Image {
  Buffer data;
  Storage storage;
  int n, h, w, c;
};

inline Image view_image(const Tensor& t, const char* name) {
  check_device(t, name);
  STD_TORCH_CHECK(t.dim() == 4, name, " must have 4 dimensions (N, C, H, W), but has ", t.dim(), ".");
  STD_TORCH_CHECK(is_dense_nhwc(t), name, " must be dense in channels_last order.");
  const Storage storage = storage_of(t, name);
  return {buffer_of(t, element_bytes(storage)),
          storage,
          to_int(t.size(0), name),
          to_int(t.size(2), name),
          to_int(t.size(3), name),
          to_int(t.size(1), name)};
}

// An image of a given shape and storage, or nothing.
inline Buffer view_like(const OptionalTensor& t, const char* name, const Image& like) {
  if (!t) return {};
  const Image image = view_image(*t, name);
  STD_TORCH_CHECK(image.storage == like.storage, name, " must have the dtype of input.");
  STD_TORCH_CHECK(image.n == like.n && image.h == like.h && image.w == like.w && image.c == like.c, name,
                  " must have the shape of the output.");
  return image.data;
}

// A contiguous tensor of so many elements; fp32 if `packed`, otherwise of the images' storage.
inline Buffer view_parameter(const Tensor& t, const char* name, int64_t count, Storage storage, bool packed) {
  check_device(t, name);
  STD_TORCH_CHECK(t.is_contiguous(), name, " must be contiguous.");
  const Storage own = storage_of(t, name);
  STD_TORCH_CHECK(own == (packed ? Storage::kFloat32 : storage), name,
                  packed ? " must have dtype float32." : " must have the dtype of input.");
  STD_TORCH_CHECK(t.numel() == count, name, " must have ", count, " elements, but has ", t.numel(), ".");
  return buffer_of(t, element_bytes(own));
}

// A contiguous tensor of a given shape; fp32 if `wide`, otherwise of the images' storage.
inline Buffer view_weight(const Tensor& t, const char* name, std::initializer_list<int64_t> shape, Storage storage,
                          bool wide = false) {
  bool fits = t.dim() == static_cast<int64_t>(shape.size());
  int64_t count = 1, i = 0;
  for (const int64_t size : shape) fits = fits && t.size(i++) == size, count *= size;
  STD_TORCH_CHECK(fits, name, " does not fit the input and the other weights.");
  return view_parameter(t, name, count, storage, wide);
}

// Values in fp32, or none.
inline Buffer view_bias(const OptionalTensor& t, const char* name, int64_t count, Storage storage) {
  return t ? view_parameter(*t, name, count, storage, true) : Buffer{};
}

inline Window window_of(int64_t kernel_h, int64_t kernel_w, const Ints& stride, const Ints& padding,
                        const Ints& dilation) {
  convfirst::window_of(kernel_h, kernel_w, stride, padding, dilation);  // checks them
  return {to_int(kernel_h, "kernel"),    to_int(kernel_w, "kernel"),      to_int(stride[0], "stride"),
          to_int(stride[1], "stride"),   to_int(dilation[0], "dilation"), to_int(dilation[1], "dilation"),
          to_int(padding[2], "padding"), to_int(padding[0], "padding")};
}

// An (n, c, h, w) tensor in channels_last order with dtype and device of like.
inline Tensor empty_nhwc(const Tensor& like, int64_t n, int64_t c, int64_t h, int64_t w) {
  int32_t dtype, device_type, device_index;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &dtype));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device_index));
  const int64_t sizes[] = {n, c, h, w}, strides[] = {h * w * c, 1, w * c, c};
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(4, sizes, strides, dtype, device_type, device_index, &handle));
  return Tensor(handle);
}

// Contiguous fp32 memory on the device of like.
inline Tensor empty_floats(const Tensor& like, int64_t count) {
  int32_t device_type, device_index;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device_index));
  const int64_t stride = 1;
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(1, &count, &stride, aoti_torch_dtype_float32(), device_type, device_index, &handle));
  return Tensor(handle);
}

// The device of a tensor as the current one, and torch's stream on it.
class Device {
 public:
#ifdef CONVFIRST_EMULATE
  explicit Device(const Tensor&) {}
  Stream stream() const { return nullptr; }
#else
  explicit Device(const Tensor& t) : index_(t.get_device_index()), guard_(index_) {}
  Stream stream() const {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index_, &stream));
    return static_cast<Stream>(stream);
  }

 private:
  int32_t index_;
  torch::stable::accelerator::DeviceGuard guard_;
#endif
};

inline void check_launch(const char* error) { STD_TORCH_CHECK(error == nullptr, "CUDA: ", error, "."); }

}  // namespace convfirst::cuda
