// Global and shared memory as kernels see them: typed pointers that know their bounds on the emulator and cost nothing
// on a GPU.
#pragma once

#include <type_traits>

#include "platform.cuh"

namespace convfirst::cuda {

// A tensor's memory, as kernels get it.
struct Buffer {
  void* data = nullptr;
  int64_t bytes = 0;
};

// kCount elements that move in one instruction.
template <class T, int kCount>
struct alignas(sizeof(T) * kCount) Vector {
  T values[kCount];
  CONVFIRST_DEVICE T& operator[](int i) { return values[i]; }
  CONVFIRST_DEVICE const T& operator[](int i) const { return values[i]; }
};

// One register or several that hold so many bytes: half types' own constructors would split the move.
template <int kBytes>
struct WordOf;
template <>
struct WordOf<2> {
  using type = unsigned short;
};
template <>
struct WordOf<4> {
  using type = unsigned;
};
template <>
struct WordOf<8> {
  using type = uint2;
};
template <>
struct WordOf<16> {
  using type = uint4;
};

template <class To, class From>
CONVFIRST_DEVICE To bits_as(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(static_cast<void*>(&to), &from, sizeof to);
  return to;
}

// A pointer into a tensor; const elements are constant for the whole launch, so their loads bypass coherence.
template <class T>
class Global {
 public:
  using Value = std::remove_const_t<T>;

  CONVFIRST_DEVICE explicit Global(const Buffer& buffer) : data_(static_cast<T*>(buffer.data)) {
#ifdef CONVFIRST_EMULATE
    extent_ = emulator::global_extent(buffer.data, buffer.bytes, !std::is_const_v<T>);
#endif
  }
  CONVFIRST_DEVICE bool is_null() const { return data_ == nullptr; }
  CONVFIRST_DEVICE Global operator+(int64_t count) const {
    Global moved = *this;
    moved.data_ += count;
    return moved;
  }

  template <int kCount>
  CONVFIRST_DEVICE Vector<Value, kCount> load_vector(int64_t i) const {
    using Loaded = Vector<Value, kCount>;
    using Word = typename WordOf<sizeof(Loaded)>::type;
    const auto* from = reinterpret_cast<const Word*>(data_ + i);
#ifdef CONVFIRST_EMULATE
    emulator::read(extent_, reinterpret_cast<const char*>(from), sizeof(Loaded));
    return bits_as<Loaded>(*from);
#else
    if constexpr (std::is_const_v<T>) {
      return bits_as<Loaded>(__ldg(from));
    } else {
      return bits_as<Loaded>(*from);
    }
#endif
  }
  CONVFIRST_DEVICE Value load(int64_t i) const { return load_vector<1>(i)[0]; }

  template <int kCount>
  CONVFIRST_DEVICE void store_vector(int64_t i, const Vector<Value, kCount>& vector) const {
    using Word = typename WordOf<sizeof(vector)>::type;
    auto* to = reinterpret_cast<Word*>(data_ + i);
#ifdef CONVFIRST_EMULATE
    emulator::write(extent_, reinterpret_cast<const char*>(to), sizeof(vector));
#endif
    *to = bits_as<Word>(vector);
  }
  CONVFIRST_DEVICE void store(int64_t i, Value value) const { store_vector<1>(i, {{value}}); }

  // For the primitives of this folder.
  CONVFIRST_DEVICE T* raw() const { return data_; }
#ifdef CONVFIRST_EMULATE
  const emulator::Extent& extent() const { return extent_; }

 private:
  emulator::Extent extent_;
#else
 private:
#endif
  T* data_;
};

// A pointer into shared memory, the block's own or, from map_shared, that of another block of the cluster.
template <class T>
class Shared {
 public:
  CONVFIRST_DEVICE Shared operator+(int count) const {
    Shared moved = *this;
    moved.data_ += count;
    return moved;
  }
  // The same place as elements of another type.
  template <class U>
  CONVFIRST_DEVICE Shared<U> as() const {
    Shared<U> other;
    other.data_ = reinterpret_cast<U*>(data_);
#ifdef CONVFIRST_EMULATE
    other.extent_ = extent_;
#endif
    return other;
  }

  template <int kCount>
  CONVFIRST_DEVICE Vector<T, kCount> load_vector(int i) const {
    using Loaded = Vector<T, kCount>;
    const auto* from = reinterpret_cast<const typename WordOf<sizeof(Loaded)>::type*>(data_ + i);
#ifdef CONVFIRST_EMULATE
    emulator::read(extent_, reinterpret_cast<const char*>(from), sizeof(Loaded));
#endif
    return bits_as<Loaded>(*from);
  }
  CONVFIRST_DEVICE T load(int i) const { return load_vector<1>(i)[0]; }

  template <int kCount>
  CONVFIRST_DEVICE void store_vector(int i, const Vector<T, kCount>& vector) const {
    using Word = typename WordOf<sizeof(vector)>::type;
    auto* to = reinterpret_cast<Word*>(data_ + i);
#ifdef CONVFIRST_EMULATE
    emulator::write(extent_, reinterpret_cast<const char*>(to), sizeof(vector));
#endif
    *to = bits_as<Word>(vector);
  }
  CONVFIRST_DEVICE void store(int i, T value) const { store_vector<1>(i, {{value}}); }

  CONVFIRST_DEVICE T* raw() const { return data_; }
#ifdef CONVFIRST_EMULATE
  emulator::Extent extent_;
#endif
  T* data_;
};

// The block's dynamic shared memory, the only kind that kernels use; 16-byte aligned.
template <class T>
CONVFIRST_DEVICE Shared<T> shared_memory() {
  Shared<T> memory;
#ifdef CONVFIRST_EMULATE
  memory.extent_ = emulator::shared_extent();
  memory.data_ = reinterpret_cast<T*>(memory.extent_.begin);
#else
  extern __shared__ __align__(128) unsigned char convfirst_shared_bytes[];
  memory.data_ = reinterpret_cast<T*>(convfirst_shared_bytes);
#endif
  return memory;
}

#if defined(CONVFIRST_EMULATE) || defined(__CUDACC__)
// Adds to an int of a tensor, atomically; what it was.
CONVFIRST_DEVICE int atomic_add(Global<int> to, int64_t i, int value) {
#ifdef CONVFIRST_EMULATE
  int* at = to.raw() + i;
  emulator::update(to.extent(), reinterpret_cast<const char*>(at), sizeof *at);
  const int before = *at;
  *at += value;
  return before;
#else
  return atomicAdd(to.raw() + i, value);
#endif
}
#endif

}  // namespace convfirst::cuda
