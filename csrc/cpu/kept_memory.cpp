#include "kept_memory.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>
#include <new>
#include <utility>

namespace convfirst {
namespace {

constexpr int64_t kLeastBytes = int64_t{1} << 20;          // smaller ones come from torch
constexpr int64_t kMostRecycledBytes = int64_t{32} << 20;  // larger ones glibc maps and unmaps

int64_t physical_bytes() {
  const int64_t pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGE_SIZE);
  return pages > 0 && page > 0 ? pages * page : int64_t{8} << 30;
}

class KeptMemory {
 public:
  void* take(int64_t bytes) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      const auto fitting = idle_.lower_bound(bytes);
      if (fitting != idle_.end() && fitting->first <= bytes + bytes / 4) {
        void* data = fitting->second;
        idle_bytes_ -= fitting->first;
        lent_[data] = fitting->first;
        idle_.erase(fitting);
        return data;
      }
    }
    void* data = std::aligned_alloc(static_cast<size_t>(kHugePageBytes), static_cast<size_t>(bytes));
    if (!data) {
      release();
      data = std::aligned_alloc(static_cast<size_t>(kHugePageBytes), static_cast<size_t>(bytes));
    }
    if (!data) throw std::bad_alloc();
    advise_huge_pages(data, bytes);
    const std::lock_guard<std::mutex> lock(mutex_);
    lent_[data] = bytes;
    return data;
  }

  void give(void* data) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto lent = lent_.find(data);
    const int64_t bytes = lent->second;
    lent_.erase(lent);
    if (idle_bytes_ + bytes > most_idle_) return std::free(data);
    idle_.emplace(bytes, data);
    idle_bytes_ += bytes;
  }

  int64_t release() {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const auto& block : idle_) std::free(block.second);
    idle_.clear();
    return std::exchange(idle_bytes_, 0);
  }

 private:
  std::mutex mutex_;
  std::multimap<int64_t, void*> idle_;  // by size
  std::map<void*, int64_t> lent_;
  int64_t idle_bytes_ = 0;
  const int64_t most_idle_ = physical_bytes() / 4;
};

// Never destroyed: tensors may outlive everything else.
KeptMemory& kept_memory() {
  static KeptMemory& memory = *new KeptMemory;
  return memory;
}

Tensor take_kept(const NhwcLayout& layout, int32_t dtype, int64_t bytes) {
  void* data = kept_memory().take(ceil_div(bytes, kHugePageBytes) * kHugePageBytes);
  AtenTensorHandle handle;
  const auto give = [](void* freed, void*) { kept_memory().give(freed); };
  const AOTITorchError error =
      torch_from_blob(data, 4, layout.sizes, layout.strides, 0, dtype, aoti_torch_device_type_cpu(), -1, &handle,
                      aoti_torch_layout_strided(), nullptr, 0, give, nullptr);
  if (error) kept_memory().give(data);
  TORCH_ERROR_CODE_CHECK(error);
  return Tensor(handle);
}

}  // namespace

Tensor empty_kept(int64_t n, int64_t c, int64_t h, int64_t w) {
  const NhwcLayout layout(n, c, h, w);
  const int64_t bytes = layout.elements * int64_t{sizeof(float)};
  if (bytes < kLeastBytes) return empty_strided(layout.sizes, layout.strides, 4, aoti_torch_dtype_float32());
  return take_kept(layout, aoti_torch_dtype_float32(), bytes);
}

Tensor empty_result(const Tensor& like, int64_t n, int64_t c, int64_t h, int64_t w) {
  const NhwcLayout layout(n, c, h, w);
  const int64_t bytes = layout.elements * storage_bytes(storage_of(like, "input"));
  if (bytes <= kMostRecycledBytes) return empty_nhwc(like, n, c, h, w);
  return take_kept(layout, dtype_of(like), bytes);
}

int64_t release_kept_memory() { return kept_memory().release(); }

STABLE_TORCH_LIBRARY_IMPL(convfirst, CompositeExplicitAutograd, m) {
  m.impl("release_kept_memory", TORCH_BOX(&release_kept_memory));
}

}  // namespace convfirst
