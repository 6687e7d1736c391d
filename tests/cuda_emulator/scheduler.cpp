// Runs a grid cluster by cluster, in an order of blocks and of threads that a seed decides.
#include <sys/mman.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <numeric>

#include "machine.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace emulator {

Machine machine;

namespace {

constexpr size_t kStackBytes = size_t{128} << 10, kGuardBytes = 4096;
constexpr int64_t kMostShared = 227 << 10;  // what a block may have on compute capability 9.0
constexpr int64_t kAlignment = 128;

uint64_t seed = 0;

// Stacks live as long as the process; the lowest page of each is never mapped.
void* stack_of(size_t index) {
  static std::vector<char*> stacks;
  while (stacks.size() <= index) {
    void* memory = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, kGuardBytes, PROT_NONE) != 0) return nullptr;
    stacks.push_back(static_cast<char*>(memory));
  }
  return stacks[index];
}

void enter(Thread* next) {
  machine.current = next;
  threadIdx = next->index;
  blockIdx = next->block->index;
}

std::string deadlock() {
  std::string text = "deadlock:";
  const char* last_what = nullptr;
  int last_line = 0;
  for (const auto& t : machine.threads) {
    if (t->done || (t->waits_at == last_what && t->waits_line == last_line)) continue;
    last_what = t->waits_at, last_line = t->waits_line;
    text +=
        " thread " + std::to_string(t->rank) + " waits at " + last_what + " in line " + std::to_string(last_line) + ";";
  }
  return text;
}

// Goes from a thread that cannot go on to one that can, or back to the host.
void leave(Fiber& from) {
  Machine& m = machine;
  if (m.ready.empty()) {
    if (m.finished < static_cast<int>(m.threads.size()) && m.error.empty()) m.error = deadlock();
    Fiber::switch_between(from, m.host);
    return;
  }
  const size_t pick = m.random() % m.ready.size();
  Thread* next = m.ready[pick];
  m.ready[pick] = m.ready.back();
  m.ready.pop_back();
  enter(next);
  if (&next->fiber != &from) Fiber::switch_between(from, next->fiber);
}

void run_thread() {
  Thread& self = *machine.current;
  (*machine.kernel)();
  if (!self.copies.empty()) fail("thread %d left before its asynchronous copies arrived", self.rank);
  if (self.block->barrier.arrived > 0) {
    fail("divergent barrier: thread %d left while others wait at __syncthreads in line %d", self.rank,
         self.block->barrier.line);
  }
  self.done = true;
  ++self.block->done;
  ++machine.finished;
  leave(self.fiber);
  std::abort();  // nobody switches to a thread that is done
}

void prepare_block(Block& block, int rank, uint3 index) {
  const int64_t bytes = machine.shape.shared_bytes;
  block.index = index;
  block.rank = rank;
  block.done = 0;
  block.barrier = {};
  if (!block.shadow || block.shared.bytes != bytes) {
    block.memory.resize(static_cast<size_t>(bytes + kAlignment));
    block.shadow = make_shadow(bytes);
    block.shadow->is_shared = true;
    block.shadow->owner = &block;
    const auto address = reinterpret_cast<uintptr_t>(block.memory.data());
    block.shared = {block.memory.data() + (kAlignment - address % kAlignment) % kAlignment, bytes, block.shadow.get()};
  }
  renew(*block.shadow);
  std::memset(block.shared.begin, 0xff, static_cast<size_t>(bytes));  // NaN until somebody writes it
}

void prepare_threads(Block& block, int threads) {
  const dim3 size = machine.shape.block;
  block.warps.assign(static_cast<size_t>((threads + kWarp - 1) / kWarp), Warp{});
  for (int i = 0; i < threads; ++i) {
    auto thread = std::make_unique<Thread>();
    const auto u = static_cast<unsigned>(i);
    thread->index = {u % size.x, u / size.x % size.y, u / (size.x * size.y)};
    thread->block = &block;
    thread->warp = &block.warps[static_cast<size_t>(i / kWarp)];
    thread->lane = i % kWarp;
    thread->rank = block.rank * threads + i;
    thread->warp->lanes.push_back(thread.get());
    thread->fiber.prepare(stack_of(machine.threads.size()), kStackBytes, run_thread);
    machine.ready.push_back(thread.get());
    machine.threads.push_back(std::move(thread));
  }
}

void run_cluster(unsigned first) {
  Machine& m = machine;
  const dim3 grid = m.shape.grid, size = m.shape.block;
  m.threads.clear();
  m.ready.clear();
  m.finished = 0;
  m.cluster_barrier = {};
  ++m.cluster_number;
  m.blocks.resize(static_cast<size_t>(m.shape.cluster));
  for (int rank = 0; rank < m.shape.cluster; ++rank) {
    const unsigned i = first + static_cast<unsigned>(rank);
    auto& block = m.blocks[static_cast<size_t>(rank)];
    if (!block) block = std::make_unique<Block>();
    prepare_block(*block, rank, {i % grid.x, i / grid.x % grid.y, i / (grid.x * grid.y)});
    prepare_threads(*block, static_cast<int>(size.x * size.y * size.z));
  }
  leave(m.host);
}

std::string refuse(const LaunchShape& shape) {
  const dim3 grid = shape.grid, block = shape.block;
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (threads < 1 || threads > 1024 || block.z > 64) return "invalid launch: " + std::to_string(threads) + " threads";
  if (grid.x < 1 || grid.y < 1 || grid.z < 1 || grid.y > 65535 || grid.z > 65535) {
    return "invalid launch: a grid of " + std::to_string(grid.x) + " x " + std::to_string(grid.y) + " x " +
           std::to_string(grid.z);
  }
  if (shape.shared_bytes > kMostShared) {
    return "invalid launch: " + std::to_string(shape.shared_bytes) + " bytes of shared memory";
  }
  if (shape.cluster < 1 || shape.cluster > 16 || grid.x % static_cast<unsigned>(shape.cluster)) {
    return "invalid launch: clusters of " + std::to_string(shape.cluster);
  }
  return {};
}

}  // namespace

void make_ready(Thread* thread) {
  thread->waits_at = nullptr;
  machine.ready.push_back(thread);
}

void wait_at(const char* what, int line) {
  Thread& self = *machine.current;
  self.waits_at = what;
  self.waits_line = line;
  leave(self.fiber);
}

void fail(const char* format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  machine.error = text;
  Fiber abandoned;
  Fiber::switch_between(abandoned, machine.host);
  std::abort();
}

const char* launch(const LaunchShape& shape, const std::function<void()>& kernel) {
  Machine& m = machine;
  m.shape = shape;
  m.kernel = &kernel;
  m.error = refuse(shape);
  m.random.seed(seed);
  forget_tensors();
  blockDim = shape.block;
  gridDim = shape.grid;
  const unsigned blocks = shape.grid.x * shape.grid.y * shape.grid.z;
  std::vector<unsigned> order(m.error.empty() ? blocks / static_cast<unsigned>(shape.cluster) : 0);
  std::iota(order.begin(), order.end(), 0u);
  std::shuffle(order.begin(), order.end(), m.random);
  for (const unsigned cluster : order) {
    run_cluster(cluster * static_cast<unsigned>(shape.cluster));
    if (!m.error.empty()) break;
  }
  return m.error.empty() ? nullptr : m.error.c_str();
}

}  // namespace emulator

extern "C" __attribute__((visibility("default"))) void emulator_set_seed(uint64_t seed) { emulator::seed = seed; }
