// Fills this instruction set's kernels for one element type from kernels.inc; entries that do not fit its registers
// stay null.

constexpr int tile_index(int tile) {
  for (int i = 0; i < kTileWidthCount; ++i) {
    if (kTileWidths[i] == tile) return i;
  }
  return -1;
}

template <class E, int kRows, int kBlocks>
void add_gemm(Kernels<E>& t) {
  if constexpr (kRows <= Simd<E>::Wide::kMaxRows[kBlocks - 1]) {
    t.gemm[kBlocks - 1][kRows - 1] = gemm<E, kRows, kBlocks>;
    if (kRows > t.most_rows[kBlocks - 1]) t.most_rows[kBlocks - 1] = kRows;
  }
}

template <class E, int kRows>
void add_gemm_narrow(Kernels<E>& t) {
  if constexpr (kRows <= Simd<E>::Narrow::kMaxNarrowRows) {
    t.gemm_narrow[kRows - 1] = gemm_narrow<E, kRows>;
    if (kRows > t.most_narrow_rows) t.most_narrow_rows = kRows;
  }
}

template <class E, int kRows, int kBlocks>
void add_outer(Kernels<E>& t) {
  if constexpr (!kComputesInHalf<E> && kRows <= Simd<E>::Wide::kMaxRows[kBlocks - 1]) {
    t.outer[kBlocks - 1][kRows - 1] = outer<E, kRows, kBlocks>;
  }
}

// fp16 arithmetic reads and writes fp16 only.
template <class E, class T>
constexpr bool kConverts = !kComputesInHalf<E> || StorageOf<T>::value == Storage::kFloat16;

template <class E>
Kernels<E> make_kernels() {
  using V = typename Simd<E>::Wide;
  Kernels<E> t{};
#define GEMM(rows, blocks) add_gemm<E, rows, blocks>(t);
#define GEMM_NARROW(rows) add_gemm_narrow<E, rows>(t);
#define OUTER(rows, blocks) add_outer<E, rows, blocks>(t);
#define INNER(name) \
  if constexpr (!kComputesInHalf<E>) t.name = name<E>;
#define SPATIAL(family, kernel, stride, tile) \
  if constexpr (tile <= V::kMaxTile)          \
    t.family.special[(kernel - 3) / 2][stride - 1][tile_index(tile)] = family<V, kernel, stride, tile>;
#define SPATIAL_ANY(family, tile) \
  if constexpr (tile <= V::kMaxTile) t.family.generic[tile_index(tile)] = family##_any<V, tile>;
#define STORAGE(name, type) \
  if constexpr (kConverts<E, type>) t.name[static_cast<int>(StorageOf<type>::value)] = name<E, type>;
#define WINOGRAD(name, tile) \
  if constexpr (!kComputesInHalf<E>) t.name[tile / 2 - 1] = name<E, tile>;
#define PLAIN(name) t.name = name<E>;
#define NORM(name) \
  if constexpr (!kComputesInHalf<E>) t.name = name<E>;
#include "kernels.inc"
  return t;
}
