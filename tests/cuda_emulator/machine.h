// The emulated machine's state: threads, warps, blocks and the cluster that runs now.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "cuda_emulator.h"
#include "fibers.h"
#include "shadow.h"

namespace emulator {

constexpr int kWarp = 32;

struct Block;
struct Warp;

// A cp.async on its way.
struct PendingCopy {
  Extent to;
  char* at;
  const char* source;
  int bytes;
  bool zeros;
  int64_t group;
};

struct Thread {
  Fiber fiber;
  uint3 index;
  Block* block = nullptr;
  Warp* warp = nullptr;
  int lane = 0, rank = 0;  // in its warp, in its cluster
  bool done = false;
  const char* waits_at = nullptr;  // nullptr: ready
  int waits_line = 0;
  std::deque<PendingCopy> copies;
  int64_t groups = 0;  // committed so far
};

struct Warp {
  std::vector<Thread*> lanes;
  Collective kind = Collective::kNone;
  int line = 0, arrived = 0;
  void* operands[kWarp] = {};
  uint32_t time = 0;  // __syncwarp so far
};

struct Barrier {
  int arrived = 0, line = 0;
};

struct Block {
  uint3 index;
  int rank = 0, done = 0;
  Barrier barrier;
  uint32_t time = 0;  // barriers so far
  std::vector<Warp> warps;
  std::vector<char> memory;  // shared, with a margin for its alignment
  Extent shared;
  std::unique_ptr<Shadow> shadow;
};

struct Machine {
  LaunchShape shape;
  const std::function<void()>* kernel = nullptr;
  std::vector<std::unique_ptr<Thread>> threads;  // of the cluster that runs
  std::vector<std::unique_ptr<Block>> blocks;
  std::vector<Thread*> ready;
  Thread* current = nullptr;
  Fiber host;
  std::mt19937_64 random;
  std::string error;
  int finished = 0;
  // Of the cluster.
  uint32_t cluster_time = 0, cluster_number = 0;
  Barrier cluster_barrier;
};

extern Machine machine;

// Lets another thread run until this one is made ready again.
void wait_at(const char* what, int line);
void make_ready(Thread* thread);

// Carries out a collective whose operands are all there.
void perform(Warp& warp);

std::unique_ptr<Shadow> make_shadow(int64_t bytes);
void renew(Shadow& shadow);  // its history belongs to an earlier block
void forget_tensors();

}  // namespace emulator
