// The door to the tiles of the library that this is linked into, for _native.
#include "forced_tiles.h"

extern "C" __attribute__((visibility("default"))) convfirst::ForcedTiles* convfirst_forced_tiles() {
  return &convfirst::forced_tiles();
}
