// Checks every access of a kernel against the bounds and the history of the memory that it touches.
#include "shadow.h"

#include <algorithm>
#include <cstring>
#include <map>

#include "machine.h"

namespace emulator {
namespace {

struct Tensor {
  int64_t bytes;
  std::unique_ptr<Shadow> shadow;
};
std::map<char*, Tensor> tensors;  // that the running launch writes

uint32_t next_generation = 1;

Access access_of(const Thread& t) {
  return {t.rank,
          t.block->rank,
          static_cast<int32_t>(t.warp - t.block->warps.data()),
          machine.cluster_number,
          machine.cluster_time,
          t.block->time,
          t.warp->time};
}

const char* memory_name(const Extent& extent) {
  return extent.shadow && extent.shadow->is_shared ? "shared memory" : "a tensor";
}

void check_place(const Extent& extent, const char* at, int64_t bytes, const char* verb) {
  const int64_t offset = at - extent.begin;
  if (offset < 0 || offset + bytes > extent.bytes) {
    fail("out of bounds: thread (%u, %u, %u) of block (%u, %u, %u) %s bytes [%lld, %lld) of %s of %lld bytes",
         threadIdx.x, threadIdx.y, threadIdx.z, blockIdx.x, blockIdx.y, blockIdx.z, verb,
         static_cast<long long>(offset), static_cast<long long>(offset + bytes), memory_name(extent),
         static_cast<long long>(extent.bytes));
  }
  if (offset % bytes != 0 || reinterpret_cast<uintptr_t>(at) % static_cast<uintptr_t>(bytes) != 0) {
    fail("misaligned: an access of %lld bytes at byte %lld of %s", static_cast<long long>(bytes),
         static_cast<long long>(offset), memory_name(extent));
  }
}

Cell& fresh_cell(Shadow& shadow, int64_t index) {
  Cell& cell = shadow.cells[static_cast<size_t>(index)];
  if (cell.generation != shadow.generation) {
    cell = Cell{};
    cell.generation = shadow.generation;
  }
  return cell;
}

bool concurrent_with_readers(const Cell& cell, const Access& now) {
  const Access& r = cell.reader;
  if (r.thread < 0) return false;
  if (r.cluster != now.cluster) return true;
  if (r.cluster_time != now.cluster_time) return false;
  switch (cell.readers) {
    case Width::kThread: return concurrent(r, now);
    case Width::kWarp:
      return r.block != now.block ||
             (r.block_time == now.block_time && (r.warp != now.warp || r.warp_time == now.warp_time));
    case Width::kBlock: return r.block != now.block || r.block_time == now.block_time;
    default: return true;
  }
}

void note_reader(Cell& cell, const Access& now) {
  Access& r = cell.reader;
  if (r.thread >= 0 && r.thread != now.thread && concurrent_with_readers(cell, now)) {
    const Width shared_by = r.cluster != now.cluster || r.block != now.block ? Width::kCluster
                            : r.warp != now.warp                             ? Width::kBlock
                                                                             : Width::kWarp;
    cell.readers = std::max(cell.readers, shared_by);
    r = now;
  } else {
    // Reads of the same thread may be some of a wider set, which stays.
    if (r.thread < 0 || !concurrent_with_readers(cell, now)) cell.readers = Width::kThread;
    r = now;
  }
}

[[noreturn]] void fail_race(const Extent& extent, const char* at, const Access& other, const char* first,
                            const char* second) {
  fail(
      "race on byte %lld of %s: thread %d of block %d of the cluster %s it and thread %d of block %d %s it, no barrier "
      "between them",
      static_cast<long long>(at - extent.begin), memory_name(extent), other.thread, other.block, first,
      machine.current->rank, machine.current->block->rank, second);
}

enum class Kind { kRead, kWrite, kUpdate };

void check_cell(const Extent& extent, const char* at, Cell& cell, const Access& now, Kind kind) {
  if (cell.pending) {
    fail("byte %lld of %s is the target of an asynchronous copy that nobody has waited for",
         static_cast<long long>(at - extent.begin), memory_name(extent));
  }
  const bool atomics = kind == Kind::kUpdate && cell.atomic;
  if (kind == Kind::kRead && !cell.written && extent.shadow->is_shared) {
    fail("byte %lld of shared memory is read, but nobody wrote it", static_cast<long long>(at - extent.begin));
  }
  if (cell.written && !atomics && concurrent(cell.writer, now)) {
    fail_race(extent, at, cell.writer, "wrote", kind == Kind::kRead ? "reads" : "writes");
  }
  if (kind != Kind::kRead && !atomics && concurrent_with_readers(cell, now)) {
    fail_race(extent, at, cell.reader, "read", "writes");
  }
}

void note(const Extent& extent, const char* at, int64_t bytes, Kind kind) {
  if (!extent.shadow) return;
  const Block* owner = extent.shadow->owner;
  if (owner && owner != machine.current->block && owner->done > 0) {
    fail("block %d of the cluster reaches into shared memory of block %d, of which a thread has left already",
         machine.current->block->rank, owner->rank);
  }
  const Access now = access_of(*machine.current);
  for (int64_t i = (at - extent.begin) / Shadow::kBytes; i * Shadow::kBytes < at - extent.begin + bytes; ++i) {
    Cell& cell = fresh_cell(*extent.shadow, i);
    check_cell(extent, extent.begin + i * Shadow::kBytes, cell, now, kind);
    if (kind == Kind::kRead) {
      note_reader(cell, now);
    } else {
      cell.writer = now;
      cell.written = true;
      cell.atomic = kind == Kind::kUpdate;
    }
  }
}

}  // namespace

bool concurrent(const Access& a, const Access& b) {
  if (a.cluster != b.cluster) return true;
  if (a.thread == b.thread || a.cluster_time != b.cluster_time) return false;
  if (a.block != b.block) return true;
  if (a.block_time != b.block_time) return false;
  return a.warp != b.warp || a.warp_time == b.warp_time;
}

std::unique_ptr<Shadow> make_shadow(int64_t bytes) {
  auto shadow = std::make_unique<Shadow>();
  shadow->cells.resize(static_cast<size_t>((bytes + Shadow::kBytes - 1) / Shadow::kBytes));
  shadow->generation = next_generation++;
  return shadow;
}

void renew(Shadow& shadow) { shadow.generation = next_generation++; }

void forget_tensors() { tensors.clear(); }

Extent global_extent(void* begin, int64_t bytes, bool writable) {
  auto* data = static_cast<char*>(begin);
  if (!writable || !data) return {data, data ? bytes : 0, nullptr};
  Tensor& tensor = tensors[data];
  if (!tensor.shadow || tensor.bytes != bytes) tensor = {bytes, make_shadow(bytes)};
  return {data, bytes, tensor.shadow.get()};
}

void read(const Extent& extent, const char* at, int64_t bytes) {
  check_place(extent, at, bytes, "reads");
  note(extent, at, bytes, Kind::kRead);
}

void write(const Extent& extent, const char* at, int64_t bytes) {
  check_place(extent, at, bytes, "writes");
  note(extent, at, bytes, Kind::kWrite);
}

void update(const Extent& extent, const char* at, int64_t bytes) {
  check_place(extent, at, bytes, "updates");
  note(extent, at, bytes, Kind::kUpdate);
}

void copy_async(const Extent& to, char* at, const Extent& from, const char* source, int bytes, bool zeros) {
  if (!zeros) read(from, source, bytes);
  write(to, at, bytes);
  std::memset(at, 0xff, static_cast<size_t>(bytes));  // NaN until it arrives
  for (int64_t i = (at - to.begin) / Shadow::kBytes; i * Shadow::kBytes < at - to.begin + bytes; ++i) {
    to.shadow->cells[static_cast<size_t>(i)].pending = true;
  }
  Thread& t = *machine.current;
  t.copies.push_back({to, at, source, bytes, zeros, t.groups});
}

void commit_copies() { ++machine.current->groups; }

void wait_copies(int pending_groups) {
  Thread& t = *machine.current;
  while (!t.copies.empty() && t.copies.front().group < t.groups - pending_groups) {
    const PendingCopy copy = t.copies.front();
    t.copies.pop_front();
    for (int64_t i = (copy.at - copy.to.begin) / Shadow::kBytes;
         i * Shadow::kBytes < copy.at - copy.to.begin + copy.bytes; ++i) {
      copy.to.shadow->cells[static_cast<size_t>(i)].pending = false;
    }
    write(copy.to, copy.at, copy.bytes);  // by this thread, now: others need a barrier after the wait
    if (copy.zeros) {
      std::memset(copy.at, 0, static_cast<size_t>(copy.bytes));
    } else {
      std::memcpy(copy.at, copy.source, static_cast<size_t>(copy.bytes));
    }
  }
}

}  // namespace emulator
