// Barriers, and what the lanes of a warp do together: shuffles, votes, matrix loads and products.
//
// Fragment layouts: PTX ISA, "Matrix Fragments for mma.m16n8k8" and ".m16n8k16", and ldmatrix.
#include <algorithm>
#include <cstring>

#include "machine.h"

namespace emulator {
namespace {

const char* name_of(Collective kind) {
  switch (kind) {
    case Collective::kSyncWarp: return "__syncwarp";
    case Collective::kShuffle: return "a shuffle";
    case Collective::kBallot: return "a vote";
    case Collective::kMatrixLoad: return "ldmatrix";
    default: return "mma";
  }
}

template <class Operands>
Operands& of_lane(const Warp& warp, int lane) {
  return *static_cast<Operands*>(warp.operands[lane]);
}

float float_of(uint16_t bits, Half type) {
  uint32_t wide;
  if (type == Half::kBFloat16) {
    wide = static_cast<uint32_t>(bits) << 16;
  } else {
    const uint32_t sign = (bits & 0x8000u) << 16, exponent = bits >> 10 & 31u, fraction = bits & 0x3ffu;
    if (exponent == 0) {
      const float value = static_cast<float>(fraction) * 0x1p-24f;
      return sign ? -value : value;
    }
    wide = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | fraction << 13;
  }
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

void shuffle(const Warp& warp) {
  const int lanes = static_cast<int>(warp.lanes.size());
  for (int lane = 0; lane < lanes; ++lane) {
    auto& mine = of_lane<Shuffle>(warp, lane);
    if (mine.source < 0 || mine.source >= lanes) fail("a shuffle wants the value of lane %d", mine.source);
    mine.result = of_lane<Shuffle>(warp, mine.source).value;
  }
}

void ballot(const Warp& warp) {
  unsigned votes = 0;
  const int lanes = static_cast<int>(warp.lanes.size());
  for (int lane = 0; lane < lanes; ++lane) votes |= unsigned{of_lane<Ballot>(warp, lane).predicate} << lane;
  for (int lane = 0; lane < lanes; ++lane) of_lane<Ballot>(warp, lane).result = votes;
}

// Row i of matrix m is where lane 8 m + i points; lane l gets elements 2 (l % 4) and the next of row l / 4.
void load_matrices(const Warp& warp) {
  const int count = of_lane<MatrixLoad>(warp, 0).count;
  for (int matrix = 0; matrix < count; ++matrix) {
    uint16_t elements[8][8];
    for (int row = 0; row < 8; ++row) {
      std::memcpy(elements[row], of_lane<MatrixLoad>(warp, 8 * matrix + row).row, sizeof elements[row]);
    }
    for (int lane = 0; lane < kWarp; ++lane) {
      const auto& mine = of_lane<MatrixLoad>(warp, lane);
      const int row = lane / 4, column = 2 * (lane % 4);
      const unsigned low = mine.transposed ? elements[column][row] : elements[row][column];
      const unsigned high = mine.transposed ? elements[column + 1][row] : elements[row][column + 1];
      mine.registers[matrix] = low | high << 16;
    }
  }
}

// D (16 x 8) += A (16 x kDepth) B (kDepth x 8), summed in fp32.
template <int kDepth>
void multiply(const Warp& warp) {
  float a[16][kDepth], b[kDepth][8];
  for (int lane = 0; lane < kWarp; ++lane) {
    const auto& mine = of_lane<Multiply>(warp, lane);
    const int row = lane / 4, pair = 2 * (lane % 4);
    for (int half = 0; half < kDepth / 8; ++half) {
      for (int i = 0; i < 2; ++i) {
        const auto part = [&](unsigned word) { return float_of(static_cast<uint16_t>(word >> 16 * i), mine.type); };
        a[row][8 * half + pair + i] = part(mine.a[2 * half]);
        a[row + 8][8 * half + pair + i] = part(mine.a[2 * half + 1]);
        b[8 * half + pair + i][row] = part(mine.b[half]);
      }
    }
  }
  for (int lane = 0; lane < kWarp; ++lane) {
    const auto& mine = of_lane<Multiply>(warp, lane);
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
      float sum = 0;
      for (int k = 0; k < kDepth; ++k) sum += a[row][k] * b[k][column];
      mine.d[i] += sum;
    }
  }
}

}  // namespace

void perform(Warp& warp) {
  if (static_cast<int>(warp.lanes.size()) < kWarp && warp.kind >= Collective::kMatrixLoad) {
    fail("%s in a warp of %zu threads", name_of(warp.kind), warp.lanes.size());
  }
  switch (warp.kind) {
    case Collective::kSyncWarp: ++warp.time; break;
    case Collective::kShuffle: shuffle(warp); break;
    case Collective::kBallot: ballot(warp); break;
    case Collective::kMatrixLoad: load_matrices(warp); break;
    case Collective::kMultiply8: multiply<8>(warp); break;
    case Collective::kMultiply16: multiply<16>(warp); break;
    case Collective::kNone: break;
  }
}

void together(Collective kind, void* operands, int line) {
  Thread& self = *machine.current;
  Warp& warp = *self.warp;
  if (warp.arrived == 0) {
    warp.kind = kind;
    warp.line = line;
  } else if (warp.kind != kind || warp.line != line) {
    fail("divergent warp: lane %d comes to %s in line %d while others wait at %s in line %d", self.lane, name_of(kind),
         line, name_of(warp.kind), warp.line);
  }
  if (kind == Collective::kMatrixLoad) {
    const auto& load = *static_cast<MatrixLoad*>(operands);
    if (self.lane < 8 * load.count) read(load.extent, load.row, 16);
  }
  warp.operands[self.lane] = operands;
  if (++warp.arrived < static_cast<int>(warp.lanes.size())) return wait_at(name_of(kind), line);
  perform(warp);
  warp.arrived = 0;
  for (Thread* lane : warp.lanes) {
    if (lane != &self) make_ready(lane);
  }
}

void cluster_sync(int line) {
  Barrier& barrier = machine.cluster_barrier;
  if (barrier.arrived > 0 && barrier.line != line) {
    fail("divergent cluster barrier: lines %d and %d", barrier.line, line);
  }
  barrier.line = line;
  if (++barrier.arrived < static_cast<int>(machine.threads.size())) return wait_at("the cluster's barrier", line);
  barrier.arrived = 0;
  ++machine.cluster_time;
  for (const auto& thread : machine.threads) {
    if (thread.get() != machine.current) make_ready(thread.get());
  }
}

int cluster_rank() { return machine.current->block->rank; }
int cluster_size() { return machine.shape.cluster; }

Extent shared_extent(int rank) {
  if (rank < 0) return machine.current->block->shared;
  if (rank >= machine.shape.cluster) fail("block %d of a cluster of %d", rank, machine.shape.cluster);
  return machine.blocks[static_cast<size_t>(rank)]->shared;
}

}  // namespace emulator

void __syncwarp(unsigned mask, int line) {
  if (mask != 0xffffffffu) emulator::fail("__syncwarp of some lanes only is not emulated");
  emulator::together(emulator::Collective::kSyncWarp, nullptr, line);
}

void __syncthreads(int line) {
  using emulator::machine;
  emulator::Block& block = *machine.current->block;
  const int threads = static_cast<int>(blockDim.x * blockDim.y * blockDim.z);
  if (block.barrier.arrived > 0 && block.barrier.line != line) {
    emulator::fail("divergent barrier: thread %d comes to line %d while others wait in line %d", machine.current->rank,
                   line, block.barrier.line);
  }
  if (block.done > 0) emulator::fail("divergent barrier: a thread left before __syncthreads in line %d", line);
  block.barrier.line = line;
  if (++block.barrier.arrived < threads) return emulator::wait_at("__syncthreads", line);
  block.barrier.arrived = 0;
  ++block.time;
  for (emulator::Warp& warp : block.warps) {
    for (emulator::Thread* lane : warp.lanes) {
      if (lane != machine.current) emulator::make_ready(lane);
    }
  }
}
