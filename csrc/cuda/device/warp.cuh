// Shuffles, votes and sums within a warp, all lanes taking part.
#pragma once

#include "platform.cuh"

namespace convfirst::cuda {

// The value that lane `source` has.
template <class T>
CONVFIRST_DEVICE T shuffle(T value, int source CONVFIRST_FROM_LINE) {
#ifdef CONVFIRST_EMULATE
  static_assert(sizeof(T) <= 8);
  emulator::Shuffle operands = {0, source, 0};
  memcpy(&operands.value, &value, sizeof value);
  emulator::together(emulator::Collective::kShuffle, &operands, line);
  memcpy(static_cast<void*>(&value), &operands.result, sizeof value);
  return value;
#else
  return __shfl_sync(0xffffffffu, value, source);
#endif
}

CONVFIRST_DEVICE unsigned ballot(bool predicate CONVFIRST_FROM_LINE) {
#ifdef CONVFIRST_EMULATE
  emulator::Ballot operands = {predicate, 0};
  emulator::together(emulator::Collective::kBallot, &operands, line);
  return operands.result;
#else
  return __ballot_sync(0xffffffffu, predicate);
#endif
}

// The sum over the lanes whose numbers agree but for the bits below `width`, a power of two; every lane gets it.
CONVFIRST_DEVICE float sum_lanes(float value, int width) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  CONVFIRST_NO_UNROLL
  for (int step = width / 2; step > 0; step /= 2) value += shuffle(value, lane ^ step);
  return value;
}

}  // namespace convfirst::cuda
