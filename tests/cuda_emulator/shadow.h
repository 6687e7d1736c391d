// Who touched each two bytes of an allocation last: what finds races, exactly and in any order of threads.
#pragma once

#include <cstdint>
#include <vector>

namespace emulator {

struct Block;

// One access: the thread and the numbers of the barriers that it had passed.
struct Access {
  int32_t thread = -1;  // in the cluster
  int32_t block = 0, warp = 0;
  uint32_t cluster = 0;  // its number
  uint32_t cluster_time = 0, block_time = 0, warp_time = 0;
};

// Whether nothing orders two accesses.
bool concurrent(const Access& a, const Access& b);

// All reads since the last one that a later barrier orders, as one: of a thread, of one warp's lanes, of one block's
// warps, or of several blocks.
enum class Width : uint8_t { kThread, kWarp, kBlock, kCluster };

struct Cell {
  Access writer, reader;
  Width readers = Width::kThread;
  bool written = false, pending = false, atomic = false;
  uint32_t generation = 0;  // the launch or the block that this cell's history belongs to
};

struct Shadow {
  static constexpr int kBytes = 2;  // a cell

  std::vector<Cell> cells;
  uint32_t generation = 0;
  bool is_shared = false;        // nobody has written its bytes yet
  const Block* owner = nullptr;  // of shared memory
};

}  // namespace emulator
