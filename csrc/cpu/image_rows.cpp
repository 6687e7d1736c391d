// Copies rectangles of an NHWC image into scratch.
#include "image_rows.h"

#include <algorithm>
#include <cstring>

namespace convfirst {
namespace {

// The part of [first, first + count) that lies inside [0, size), as offsets into the range.
struct Inside {
  int64_t begin, end;
};
Inside inside(int64_t first, int64_t count, int64_t size) {
  const int64_t begin = std::clamp<int64_t>(-first, 0, count);
  return {begin, std::clamp<int64_t>(size - first, begin, count)};
}

template <class E>
void fill_zeros(E* out, int64_t count) {
  if (count > 0) std::memset(out, 0, static_cast<size_t>(count) * sizeof(E));
}

// Calls copy(source offset in elements, destination pixel, pixels) for the inside of every row and zeroes the rest.
template <class E, class Copy>
void copy_rows(const ImageView& in, const Patch& patch, int64_t width, E* out, const Copy& copy) {
  const Inside columns = inside(patch.column, patch.columns, in.w);
  for (int64_t r = 0; r < patch.rows; ++r) {
    const int64_t y = patch.row + r;
    E* row = out + r * patch.columns * width;
    if (y < 0 || y >= in.h) {
      fill_zeros(row, patch.columns * width);
      continue;
    }
    fill_zeros(row, columns.begin * width);
    fill_zeros(row + columns.end * width, (patch.columns - columns.end) * width);
    if (columns.end > columns.begin) {
      const int64_t pixel = (patch.image * in.h + y) * in.w + patch.column + columns.begin;
      copy(pixel * in.c, row + columns.begin * width, columns.end - columns.begin);
    }
  }
}

// Repeats each of the gathered channels `multiplier` times, in place.
template <class E>
void repeat_channels(E* pixels, int64_t count, int64_t first_out, int64_t lanes, int64_t multiplier) {
  const int64_t first = first_out / multiplier;
  for (int64_t p = 0; p < count; ++p) {
    E source[kLanesOf<E>];
    std::memcpy(source, pixels + p * kLanesOf<E>, sizeof source);
    for (int64_t l = 0; l < lanes; ++l) pixels[p * kLanesOf<E> + l] = source[(first_out + l) / multiplier - first];
  }
}

// Images that lie in planes have few channels.
template <class E>
void widen_planar_patch(const Kernels<E>& kernels, const ImageView& in, const Patch& patch, E* out) {
  constexpr int64_t kPixels = 256, kPlanes = 4;
  const WidenKernel<E> widen = kernels.widen[static_cast<int>(in.storage)];
  const int64_t plane = in.h * in.w;
  E rows[kPlanes * kPixels];
  copy_rows(in, patch, in.c, out, [&](int64_t source, E* target, int64_t pixels) {
    const int64_t pixel = source / in.c, image = pixel / plane, start = image * plane * in.c + pixel % plane;
    for (int64_t done = 0; done < pixels; done += kPixels) {
      const int64_t count = std::min(kPixels, pixels - done);
      for (int64_t first = 0; first < in.c; first += kPlanes) {
        const int64_t planes = std::min(kPlanes, in.c - first);
        for (int64_t c = 0; c < planes; ++c) {
          widen(offset(in.data, in.storage, start + (first + c) * plane + done), rows + c * kPixels, count);
        }
        kernels.interleave({rows, kPixels, planes, target + done * in.c + first, in.c, count});
      }
    }
  });
}

}  // namespace

template <class E>
void gather_block(const Kernels<E>& kernels, const ImageView& in, const Patch& patch, int64_t first_out, int64_t lanes,
                  int64_t multiplier, E* out) {
  const GatherKernel<E> gather = kernels.gather[static_cast<int>(in.storage)];
  const int64_t first = first_out / multiplier;
  const int64_t channels = (first_out + lanes - 1) / multiplier - first + 1;
  copy_rows(in, patch, kLanesOf<E>, out, [&](int64_t source, E* target, int64_t pixels) {
    gather({offset(in.data, in.storage, source + first), in.c, target, pixels, channels});
    if (multiplier > 1) repeat_channels(target, pixels, first_out, lanes, multiplier);
  });
}

template <class E>
void widen_patch(const Kernels<E>& kernels, const ImageView& in, const Patch& patch, E* out) {
  if (in.planar) return widen_planar_patch(kernels, in, patch, out);
  const WidenKernel<E> widen = kernels.widen[static_cast<int>(in.storage)];
  copy_rows(in, patch, in.c, out, [&](int64_t source, E* target, int64_t pixels) {
    widen(offset(in.data, in.storage, source), target, pixels * in.c);
  });
}

template void gather_block(const Kernels<float>&, const ImageView&, const Patch&, int64_t, int64_t, int64_t, float*);
template void gather_block(const Kernels<Half>&, const ImageView&, const Patch&, int64_t, int64_t, int64_t, Half*);
template void widen_patch(const Kernels<float>&, const ImageView&, const Patch&, float*);
template void widen_patch(const Kernels<Half>&, const ImageView&, const Patch&, Half*);

}  // namespace convfirst
