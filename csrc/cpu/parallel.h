// Work on the caller's team, or on torch's own threads where it has none, and the scratch memory of a task.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>

#include "huge_pages.h"
#include "team.h"

namespace convfirst {

inline int64_t thread_count() {
  const Team* team = Team::current();
  return team ? team->threads() : torch::stable::get_num_threads();
}

// Runs body(first, last) on contiguous shares of the tasks; nested calls run in the caller's thread.
template <class Body>
void share_tasks(int64_t tasks, const Body& body) {
  if (tasks <= 0) return;
  const auto finished = [&](int64_t first, int64_t last) {
    body(first, last);
    // Stores that passed the caches are not ordered before the signal that the share is done.
    std::atomic_thread_fence(std::memory_order_seq_cst);
  };
  if (Team* team = Team::current()) return team->share(tasks, finished);
  torch::stable::parallel_for(0, tasks, 1, finished);
}

template <class Body>
void for_each_task(int64_t tasks, const Body& body) {
  share_tasks(tasks, [&](int64_t first, int64_t last) {
    for (int64_t task = first; task < last; ++task) body(task);
  });
}

// Under AddressSanitizer every request gets memory of its own size, so that a task that asks for too little is found
// out.
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kReusesScratch = false;
#else
constexpr bool kReusesScratch = true;
#endif

// A thread's scratch memory: grows to the largest request and is then reused, so that steady calls allocate nothing.
class Arena {
 public:
  Arena() = default;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  ~Arena() { std::free(data_); }

  float* floats(int64_t count) {
    if (count > capacity_ || !kReusesScratch) grow(count);
    return data_;
  }

 private:
  void grow(int64_t count) {
    constexpr int64_t kAlignment = 64, kLarge = kHugePageBytes / 4;
    const int64_t wanted = count * 4, alignment = wanted >= kLarge ? kHugePageBytes : kAlignment;
    const int64_t bytes = (wanted + alignment - 1) / alignment * alignment;
    void* fresh = std::aligned_alloc(static_cast<size_t>(alignment), static_cast<size_t>(bytes));
    if (!fresh) throw std::bad_alloc();
    if (alignment == kHugePageBytes) advise_huge_pages(fresh, bytes);
    std::free(data_);
    data_ = static_cast<float*>(fresh);
    capacity_ = count;
  }

  float* data_ = nullptr;
  int64_t capacity_ = 0;
};

inline Arena& task_arena() {
  static thread_local Arena arena;
  return arena;
}
inline Arena& call_arena() {
  static thread_local Arena arena;
  return arena;
}

template <class E>
constexpr int64_t floats_for(int64_t elements) {
  return (elements * static_cast<int64_t>(sizeof(E)) + 3) / 4;
}

// Scratch of one task on the thread that runs it.
template <class E = float>
E* task_scratch(int64_t elements) {
  return reinterpret_cast<E*>(task_arena().floats(floats_for<E>(elements)));
}

// Packed weights of a whole call that was given torch's; owned by the calling thread.
inline float* weight_scratch(int64_t floats) {
  static thread_local Arena arena;
  return arena.floats(floats);
}

// Scratch of a whole call, shared by its tasks; owned by the calling thread.
template <class E = float>
E* call_scratch(int64_t elements) {
  return reinterpret_cast<E*>(call_arena().floats(floats_for<E>(elements)));
}

}  // namespace convfirst
