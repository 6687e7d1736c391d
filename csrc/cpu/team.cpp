// A job is published as one word: its number, and a bit for every share that somebody has taken. A share is taken by
// compare-and-swap on that word, so a worker that comes late can never take part in the wrong job.
#include "team.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace convfirst {
namespace {

constexpr int64_t kMostShares = 32;
constexpr int kSpinsBetweenLooks = 64;
// Longer than the pause between two calls of a busy program. A worker that spins on takes a core from torch's threads,
// which a network of both kinds of layers wants next: at 200 us RegNetY-800MF took a fifth longer.
constexpr std::chrono::microseconds kSpinTime{20};
constexpr int kSpinsBeforeYield = 4000;

void pause_briefly() {
#if defined(__x86_64__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

int current_cpu() {
#if defined(__linux__)
  return sched_getcpu();
#else
  return -1;
#endif
}

// Keeps a worker off its caller's CPU. A worker that the scheduler has put there takes turns with the caller instead of
// working beside it, and may be left there for seconds.
class Placement {
 public:
  void leave(int caller_cpu) {
#if defined(__linux__)
    if (caller_cpu < 0 || caller_cpu != current_cpu()) return;
    if (!known_) known_ = sched_getaffinity(0, sizeof allowed_, &allowed_) == 0;
    if (!known_ || CPU_COUNT(&allowed_) < 2) return;
    cpu_set_t others = allowed_;
    CPU_CLR(caller_cpu, &others);
    sched_setaffinity(0, sizeof others, &others);
#else
    (void)caller_cpu;
#endif
  }

 private:
#if defined(__linux__)
  cpu_set_t allowed_;  // at the start
  bool known_ = false;
#endif
};

thread_local Team* current_team = nullptr;
thread_local bool in_share = false;

using ShareBody = void (*)(const void*, int64_t, int64_t);

class Workers {
 public:
  // Makes sure that there are at least `count`; as many as the system grants.
  void ensure(int64_t count, Team* alone) {
    while (started_ < std::min(count, kMostShares - 1)) {
      const int64_t index = started_ + 1;
      try {
        std::thread([this, index, alone] { serve(index, alone); }).detach();
      } catch (const std::exception&) {
        return;
      }
      ++started_;
    }
  }

  void run(int64_t tasks, int64_t shares, const void* context, ShareBody body) {
    tasks_.store(tasks, std::memory_order_relaxed);
    shares_.store(shares, std::memory_order_relaxed);
    context_.store(context, std::memory_order_relaxed);
    body_.store(body, std::memory_order_relaxed);
    unfinished_.store(shares, std::memory_order_relaxed);
    const uint64_t absent = shares == kMostShares ? 0 : ~0u << shares;  // shares that do not exist count as taken
    ++job_;
    word_.store(static_cast<uint64_t>(job_) << 32 | (absent & 0xffffffffu));
    while (take_share(0)) {}
    for (int spins = 0; unfinished_.load(std::memory_order_acquire) > 0; ++spins) {
      spins < kSpinsBeforeYield ? pause_briefly() : std::this_thread::yield();
    }
    if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
  }

  // Workers are awake from here to release().
  bool try_acquire() {
    if (taken_.exchange(true)) return false;
    caller_cpu_.store(current_cpu(), std::memory_order_relaxed);
    if (sleepers_.load()) wake();
    return true;
  }
  void release() { taken_.store(false); }

 private:
  // Takes a share, this thread's own if it is left, and does it; false where none is left.
  bool take_share(int64_t own) {
    uint64_t word = word_.load(std::memory_order_acquire);
    while (true) {
      const uint32_t free = ~static_cast<uint32_t>(word);
      if (!free) return false;
      const int64_t index = free >> own & 1 ? own : __builtin_ctz(free);
      const int64_t tasks = tasks_.load(std::memory_order_relaxed), shares = shares_.load(std::memory_order_relaxed);
      const void* context = context_.load(std::memory_order_relaxed);
      const ShareBody body = body_.load(std::memory_order_relaxed);
      if (!word_.compare_exchange_weak(word, word | uint64_t{1} << index, std::memory_order_acq_rel)) continue;
      do_share(context, body, tasks * index / shares, tasks * (index + 1) / shares);
      return true;
    }
  }

  void do_share(const void* context, ShareBody body, int64_t first, int64_t last) {
    in_share = true;
    try {
      body(context, first, last);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!failure_) failure_ = std::current_exception();
    }
    in_share = false;
    unfinished_.fetch_sub(1, std::memory_order_acq_rel);
  }

  [[noreturn]] void serve(int64_t index, Team* alone) {
    current_team = alone;  // what a share calls runs in its thread
    Placement placement;
    auto idle_since = std::chrono::steady_clock::now();
    while (true) {
      placement.leave(caller_cpu_.load(std::memory_order_relaxed));
      bool worked = false;
      for (int spin = 0; spin < kSpinsBetweenLooks; ++spin) {
        if (static_cast<uint32_t>(word_.load(std::memory_order_relaxed)) != ~0u && take_share(index)) {
          worked = true;
          break;
        }
        pause_briefly();
      }
      const auto now = std::chrono::steady_clock::now();
      if (worked || taken_.load(std::memory_order_relaxed)) idle_since = now;
      if (now - idle_since > kSpinTime) {
        sleep();
        idle_since = std::chrono::steady_clock::now();
      }
    }
  }

  void sleep() {
    std::unique_lock<std::mutex> lock(mutex_);
    ++sleepers_;
    while (!taken_.load()) wakeup_.wait(lock);
    --sleepers_;
  }

  void wake() {
    { const std::lock_guard<std::mutex> lock(mutex_); }  // a thread about to sleep has looked, or will be told
    wakeup_.notify_all();
  }

  std::atomic<uint64_t> word_{0xffffffffu};
  std::atomic<int64_t> tasks_{0}, shares_{1};
  std::atomic<const void*> context_{nullptr};
  std::atomic<ShareBody> body_{nullptr};
  alignas(64) std::atomic<int64_t> unfinished_{0};
  alignas(64) std::atomic<int> sleepers_{0};
  std::atomic<bool> taken_{false};
  std::atomic<int> caller_cpu_{-1};
  uint32_t job_ = 0;
  int64_t started_ = 0;
  std::exception_ptr failure_;
  std::mutex mutex_;
  std::condition_variable wakeup_;
};

std::atomic<Workers*> the_workers{nullptr};

// A forked child has none of its parent's threads. The workers are never destroyed: they may be asleep at exit.
void forget_workers() { the_workers.store(nullptr); }

Workers& workers() {
  static const int registered = pthread_atfork(nullptr, nullptr, forget_workers);
  (void)registered;
  Workers* found = the_workers.load();
  if (found) return *found;
  Workers* fresh = new Workers();
  if (the_workers.compare_exchange_strong(found, fresh)) return *fresh;
  delete fresh;
  return *found;
}

}  // namespace

Team* Team::current() { return current_team; }

void Team::run(int64_t tasks, const void* context, Share share) {
  if (tasks <= 0) return;
  const int64_t shares = std::min({tasks, threads_, kMostShares});
  if (shares == 1 || in_share) return share(context, 0, tasks);
  workers().run(tasks, shares, context, share);
}

TeamLease::TeamLease(int64_t threads)
    : team_(threads), owns_workers_(!current_team && threads > 1 && workers().try_acquire()) {
  if (current_team) return;
  if (owns_workers_) {
    static Team alone(1);
    workers().ensure(threads - 1, &alone);
  } else {
    team_.threads_ = 1;
  }
  current_team = &team_;
}

TeamLease::~TeamLease() {
  if (current_team != &team_) return;
  current_team = nullptr;
  if (owns_workers_) workers().release();
}

}  // namespace convfirst
