// A set-associative cache with least-recently-used replacement and write-back: how many bytes an access trace moves
// between it and what lies behind.
#pragma once

#include <cstdint>
#include <vector>

namespace convfirst {

class CacheSimulation {
 public:
  static constexpr int64_t kLineBytes = 64;

  // `bytes` are rounded down to a power of two of sets.
  CacheSimulation(int64_t bytes, int64_t ways);

  // Touches every line of [address, address + bytes), in order.
  void access(int64_t address, int64_t bytes, bool writes);

  // Lines of [address, address + bytes) that are written but not yet behind, now written.
  void flush(int64_t address, int64_t bytes);

  int64_t lines_read() const { return lines_read_; }                  // fetched because they were read
  int64_t lines_written() const { return lines_written_; }            // written back
  int64_t lines_write_missed() const { return lines_write_missed_; }  // written first: hardware may fetch them too

 private:
  struct Line {
    int64_t tag = -1;
    int64_t used = 0;
    bool dirty = false;
  };

  void touch(int64_t line, bool writes);

  int64_t ways_;
  int64_t set_mask_;
  int64_t clock_ = 0;
  int64_t lines_read_ = 0, lines_written_ = 0, lines_write_missed_ = 0;
  std::vector<Line> lines_;  // [set][way]
};

}  // namespace convfirst
