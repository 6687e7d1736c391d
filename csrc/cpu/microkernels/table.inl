// Fills this instruction set's table from kernels.inc; entries that do not fit its registers stay null.

constexpr int tile_index(int tile) {
  for (int i = 0; i < kTileWidthCount; ++i) {
    if (kTileWidths[i] == tile) return i;
  }
  return -1;
}

template <int kRows, int kBlocks>
void add_gemm(KernelTable& t) {
  if constexpr (kRows <= Vec::kMaxRows[kBlocks - 1]) t.gemm[kBlocks - 1][kRows - 1] = gemm<kRows, kBlocks>;
}

template <int kRows>
void add_gemm_half(KernelTable& t) {
  if constexpr (kRows <= HalfVec::kMaxRows) t.gemm_half[kRows - 1] = gemm_half<kRows>;
}

inline KernelTable make_table(const char* isa) {
  KernelTable t{};
  t.isa = isa;
#define GEMM(rows, blocks) add_gemm<rows, blocks>(t);
#define GEMM_HALF(rows) add_gemm_half<rows>(t);
#define SPATIAL(family, kernel, stride, tile) \
  if constexpr (tile <= Vec::kMaxTile)        \
    t.family.special[(kernel - 3) / 2][stride - 1][tile_index(tile)] = family<kernel, stride, tile>;
#define SPATIAL_ANY(family, tile) \
  if constexpr (tile <= Vec::kMaxTile) t.family.generic[tile_index(tile)] = family##_any<tile>;
#define STORAGE(name, type) t.name[static_cast<int>(StorageOf<type>::value)] = name<type>;
#define PLAIN(name) t.name = name;
#include "kernels.inc"
  return t;
}
