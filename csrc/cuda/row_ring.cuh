// Rows of an NHWC image in a ring of shared memory: a chunk of 128 bytes of channels and a range of columns at a time.
//
// A block walks down the image; while it computes on some rows cp.async brings the next ones into the slots of rows
// that are no longer needed. Columns and rows outside the image are zeros. A column is 128 bytes, so the eight lanes
// that read one meet all banks once.
#pragma once

#include "device/async_copy.cuh"
#include "device/numeric.cuh"

namespace convfirst::cuda {

constexpr int kVectors = 8;  // 16-byte vectors of a chunk

template <class T>
constexpr int kVector = 16 / sizeof(T);  // elements
template <class T>
constexpr int kChunk = kVectors * kVector<T>;

constexpr int kColumnBytes = 16 * kVectors;

// kSwizzle >= 0 exchanges the vectors of a column so that one vector of eight columns, `1 << kSwizzle` apart, lies in
// all banks too: that is what ldmatrix reads.
template <class T, int kSwizzle = -1>
struct RowRing {
  Shared<T> memory;
  Global<const T> image;
  int h, w, c;                // of the image
  int channel, first_column;  // of the chunk; the column may be negative
  int columns, slots;
  int origin;  // the first row that is ever fetched

  static int64_t bytes(int columns, int slots) { return int64_t{columns} * slots * kColumnBytes; }

  CONVFIRST_DEVICE int slot_of(int row) const { return (row - origin) % slots; }

  CONVFIRST_DEVICE Shared<T> at(int slot, int column, int vector) const {
    if constexpr (kSwizzle >= 0) vector ^= (column >> kSwizzle) % kVectors;
    return memory + ((slot * columns + column) * kVectors + vector) * kVector<T>;
  }

  // Starts copies of rows [first, first + count); all threads of the block take part, a multiple of kVectors.
  CONVFIRST_DEVICE void fetch(int first, int count) const {
    const int vector = static_cast<int>(threadIdx.x) % kVectors, step = static_cast<int>(blockDim.x) / kVectors;
    const int own_channel = channel + vector * kVector<T>;
    int column = static_cast<int>(threadIdx.x) / kVectors, row = 0;
    int slot = slot_of(first);
    while (true) {
      while (column >= columns) {
        column -= columns;
        ++row;
        slot = slot + 1 == slots ? 0 : slot + 1;
      }
      if (row >= count) break;
      const int y = first + row, x = first_column + column;
      const bool valid = y >= 0 && y < h && x >= 0 && x < w && own_channel < c;
      const int64_t from = valid ? (static_cast<int64_t>(y) * w + x) * c + own_channel : 0;
      copy_async<16>(at(slot, column, vector), image + from, valid);
      column += step;
    }
  }

  // Vector number `vector` of the chunk.
  CONVFIRST_DEVICE void load(int slot, int column, int vector, float (&x)[kVector<T>]) const {
    const auto stored = at(slot, column, vector).template load_vector<kVector<T>>(0);
    CONVFIRST_UNROLL
    for (int i = 0; i < kVector<T>; ++i) x[i] = to_float(stored[i]);
  }
};

}  // namespace convfirst::cuda
