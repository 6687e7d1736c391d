// Simulates a cache on an access trace, see cache_simulation.h.
#include "cache_simulation.h"

#include <algorithm>

namespace convfirst {

CacheSimulation::CacheSimulation(int64_t bytes, int64_t ways) : ways_(ways) {
  int64_t sets = 1;
  while (2 * sets * ways * kLineBytes <= bytes) sets *= 2;
  set_mask_ = sets - 1;
  lines_.resize(static_cast<size_t>(sets * ways));
}

void CacheSimulation::access(int64_t address, int64_t bytes, bool writes) {
  if (bytes <= 0) return;
  const int64_t last = (address + bytes - 1) / kLineBytes;
  for (int64_t line = address / kLineBytes; line <= last; ++line) touch(line, writes);
}

void CacheSimulation::touch(int64_t line, bool writes) {
  Line* set = lines_.data() + (line & set_mask_) * ways_;
  Line* victim = set;
  ++clock_;
  for (int64_t way = 0; way < ways_; ++way) {
    if (set[way].tag == line) {
      set[way].used = clock_;
      set[way].dirty |= writes;
      return;
    }
    if (set[way].used < victim->used) victim = set + way;
  }
  if (victim->dirty) ++lines_written_;
  ++(writes ? lines_write_missed_ : lines_read_);
  *victim = {line, clock_, writes};
}

void CacheSimulation::flush(int64_t address, int64_t bytes) {
  if (bytes <= 0) return;
  const int64_t first = address / kLineBytes, last = (address + bytes - 1) / kLineBytes;
  for (Line& line : lines_) {
    if (!line.dirty || line.tag < first || line.tag > last) continue;
    line.dirty = false;
    ++lines_written_;
  }
}

}  // namespace convfirst
