// Tiles that a measurement forces on the planners of this process, for sweeps; zero leaves the choice to them.
#pragma once

#include <atomic>
#include <cstdint>

namespace convfirst {

struct ForcedTiles {
  std::atomic<int64_t> run_pixels{0};     // pointwise: output pixels a task takes
  std::atomic<int64_t> parts{0};          // pointwise: of the output channels, a task each
  std::atomic<int64_t> band_rows{0};      // depthwise: output rows whose inputs are copied together
  std::atomic<int64_t> keeps_hidden{0};   // fused: 1 keeps an image's hidden tensor, -1 does not
  std::atomic<int64_t> row_group{0};      // fused: output rows computed together
  std::atomic<int64_t> hidden_blocks{0};  // fused: 16-channel blocks of the hidden tensor in flight
  std::atomic<int64_t> streams{0};        // single: 1 lets results pass the caches, -1 does not
};

inline ForcedTiles& forced_tiles() {
  static ForcedTiles tiles;
  return tiles;
}

}  // namespace convfirst
