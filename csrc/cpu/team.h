// Threads that stay together for a whole chain of blocks. Between two steps they spin instead of going through a fork
// and a join, and nobody waits for a thread that has not come: its share is then done by one that has. So a call after
// a pause, or on a busy machine, costs at worst what fewer threads would take, not a scheduler's time slice a step.
#pragma once

#include <cstdint>

namespace convfirst {

class Team {
 public:
  // Runs body(first, last) on contiguous shares of the tasks, one a thread, and returns when all are done. Nested calls
  // run in the caller's thread.
  template <class Body>
  void share(int64_t tasks, const Body& body) {
    run(tasks, &body,
        [](const void* context, int64_t first, int64_t last) { (*static_cast<const Body*>(context))(first, last); });
  }

  int64_t threads() const { return threads_; }

  // The team of the calling thread, nullptr where it has none.
  static Team* current();

 private:
  friend class TeamLease;
  using Share = void (*)(const void* context, int64_t first, int64_t last);
  explicit Team(int64_t threads) : threads_(threads) {}
  void run(int64_t tasks, const void* context, Share share);

  int64_t threads_;
};

// Gives the calling thread a team of `threads`, itself included, while the lease lives. Where the threads serve another
// call already, the team is the caller alone.
class TeamLease {
 public:
  explicit TeamLease(int64_t threads);
  ~TeamLease();
  TeamLease(const TeamLease&) = delete;
  TeamLease& operator=(const TeamLease&) = delete;

 private:
  Team team_;
  bool owns_workers_;
};

}  // namespace convfirst
