// Long calls ask now and then whether the program wants to have its thread back, as after Ctrl-C. What knows the answer
// is not known here: the Python side leaves a function for it.
#pragma once

#include <atomic>
#include <chrono>

namespace convfirst {

// Whether the call that asks is to end; nullptr where nobody ever interrupts.
using InterruptPoll = bool (*)();

inline std::atomic<InterruptPoll>& interrupt_poll() {
  static std::atomic<InterruptPoll> poll{nullptr};
  return poll;
}

// Of one call, in the thread that made it.
class Interrupts {
 public:
  // Throws where the call is to end. Cheap enough for between two steps: it reads the clock and asks seldom, because
  // the answer may have to wait for a lock.
  void check() {
    const auto now = std::chrono::steady_clock::now();
    if (now - asked_ < kBetweenQuestions) return;
    asked_ = now;
    const InterruptPoll poll = interrupt_poll().load(std::memory_order_relaxed);
    if (poll && poll()) end_call();
  }

 private:
  static constexpr std::chrono::milliseconds kBetweenQuestions{100};
  [[noreturn]] static void end_call();

  std::chrono::steady_clock::time_point asked_ = std::chrono::steady_clock::now();
};

}  // namespace convfirst
