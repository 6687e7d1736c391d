// Chooses tiles and launches the passes of an inverted residual.
#include "mbconv_passes.h"

#include <limits>

#include "dispatch.cuh"
#include "mbconv_hidden.cuh"
#include "mbconv_product.cuh"

namespace convfirst::cuda {
namespace {

constexpr int kSlots = 264;             // blocks that an H100 or H200 runs at a time
constexpr double kPixelsOfABlock = 64;  // what starting a block costs, in pixels that it expands

bool is_grouped(const HiddenPass& pass) { return pass.kind == HiddenKind::kGrouped3; }
int kernel_of(const HiddenPass& pass) { return pass.kind == HiddenKind::kDepthwise5 ? 5 : 3; }

// Pixels of the input's height or width that so many outputs see at most.
int most_seen(const HiddenPass& pass, int outputs, int size) {
  const int convolved = pass.blurs ? 2 * outputs + 1 : outputs;
  const int seen = (convolved - 1) * pass.stride + kernel_of(pass);
  return seen < size ? seen : size;
}

// The time of a tiling, in pixels expanded by each of the blocks that run side by side.
double cost_of(const HiddenPass& pass, const HiddenTile& tile, int seen) {
  const int64_t groups = ceil_div(pass.n, tile.images);
  const int64_t blocks = groups * tile.tiles() * ceil_div(pass.hidden, kHiddenSlice);
  const double waves = static_cast<double>(blocks) / kSlots;
  return (waves < 1 ? 1 : waves) * (kPixelsOfABlock + ceil_div(seen, 16) * 16);
}

template <class T, HiddenKind kKind, int kStride>
const char* launch_hidden(const HiddenPass& pass, Stream stream) {
  const int64_t blocks =
      ceil_div<int64_t>(pass.n, pass.tile.images) * pass.tile.tiles() * ceil_div(pass.hidden, kHiddenSlice);
  const LaunchShape shape = {dim3(static_cast<unsigned>(blocks), 1, 1), kHiddenThreads,
                             HiddenShape<kKind, kStride>::kBytes, 1};
  return launch(hidden_kernel<T, kKind, kStride>, shape, pass, stream);
}

template <class T, int kColumns>
const char* launch_product(const ProductPass& pass, Stream stream) {
  const int64_t blocks = ceil_div<int64_t>(pass.rows, kProductRows) * ceil_div(pass.outputs, kColumns);
  const LaunchShape shape = {dim3(static_cast<unsigned>(blocks), 1, 1), kProductThreads, ProductShape<kColumns>::kBytes,
                             1};
  return launch(product_kernel<T, kColumns>, shape, pass, stream);
}

}  // namespace

const char* hidden_reason_against(const HiddenPass& pass) {
  if (pass.storage == Storage::kFloat32) return "input must have dtype float16 or bfloat16 for tensor cores";
  if (pass.c % 8 || pass.hidden % 8 || pass.c < 8) return "input and hidden channels must be multiples of 8";
  if (int64_t{pass.h} * pass.w * pass.c > std::numeric_limits<int>::max()) {
    return "an image must have less than 2^31 elements";
  }
  const int kernel = kernel_of(pass);
  if (is_grouped(pass)) {
    const bool same = pass.stride == 1 && pass.conv_h == pass.h && pass.conv_w == pass.w;
    if (!same || pass.top != 1 || pass.left != 1) return "stride and padding must be 1 at group width 8";
  } else if (pass.blurs) {
    return "groups must have 8 channels where the hidden tensor is blurred";
  }
  if (pass.stride != 1 && pass.stride != 2) return "stride must be 1 or 2";
  if (pass.top >= kernel || pass.left >= kernel || (pass.conv_h - 1) * pass.stride - pass.top >= pass.h ||
      (pass.conv_w - 1) * pass.stride - pass.left >= pass.w) {
    return "padding must be less than the kernel";
  }
  if (pass.blurs && (pass.conv_h < 2 || pass.conv_w < 2)) return "input must have 2 x 2 pixels where it is blurred";
  for (const Buffer& buffer : {pass.input, pass.expand_weight}) {
    if (!is_aligned(buffer)) return "input and weights must start at a multiple of 16 bytes";
  }
  return nullptr;
}

const char* product_reason_against(const ProductPass& pass) {
  if (pass.outputs % 8) return "project_weight must have a multiple of 8 output channels";
  for (const Buffer& buffer : {pass.weight, pass.residual}) {
    if (!is_aligned(buffer)) return "weights and residual must start at a multiple of 16 bytes";
  }
  return nullptr;
}

void plan_hidden(HiddenPass& pass) {
  HiddenTile best{};
  double least = 0;
  const auto consider = [&](const HiddenTile& tile, int seen) {
    const double cost = cost_of(pass, tile, seen);
    if (best.images == 0 || cost < least) best = tile, least = cost;
  };
  const int area = pass.h * pass.w;
  for (int images = 1; images <= pass.n && images * area <= kHiddenPixels; ++images) {
    consider({images, pass.p, pass.q, 1, 1}, images * area);
  }
  for (int columns = 1; columns <= pass.q; ++columns) {
    const int seen_columns = most_seen(pass, columns, pass.w);
    if (seen_columns > kHiddenPixels) break;
    for (int rows = 1; rows <= pass.p; ++rows) {
      const int seen = seen_columns * most_seen(pass, rows, pass.h);
      if (seen > kHiddenPixels) break;
      const int across = ceil_div(pass.q, columns), down = ceil_div(pass.p, rows);
      if (columns == ceil_div(pass.q, across) && rows == ceil_div(pass.p, down)) {
        consider({1, rows, columns, down, across}, seen);
      }
    }
  }
  pass.tile = best;
}

int images_at_a_time(const HiddenPass& pass) {
  const int64_t image = int64_t{2} * pass.p * pass.q * pass.hidden, parts = ceil_div(image * pass.n, kMostHiddenBytes);
  return static_cast<int>(ceil_div<int64_t>(pass.n, parts < 1 ? 1 : parts < pass.n ? parts : pass.n));
}

const char* run_hidden(const HiddenPass& pass, Stream stream) {
  return for_half_storage(pass.storage, [&](auto type) {
    using T = decltype(type);
    switch (pass.kind) {
      case HiddenKind::kGrouped3: return launch_hidden<T, HiddenKind::kGrouped3, 1>(pass, stream);
      case HiddenKind::kDepthwise3:
        return pass.stride == 1 ? launch_hidden<T, HiddenKind::kDepthwise3, 1>(pass, stream)
                                : launch_hidden<T, HiddenKind::kDepthwise3, 2>(pass, stream);
      default:
        return pass.stride == 1 ? launch_hidden<T, HiddenKind::kDepthwise5, 1>(pass, stream)
                                : launch_hidden<T, HiddenKind::kDepthwise5, 2>(pass, stream);
    }
  });
}

const char* run_excite(const ExcitePass& pass, Stream stream) {
  const LaunchShape shape = {dim3(static_cast<unsigned>(pass.n), 1, 1), kExciteThreads,
                             int64_t{4} * (pass.hidden + pass.squeezed), 1};
  return launch(excite_kernel, shape, pass, stream);
}

const char* run_product(const ProductPass& pass, Stream stream) {
  return for_half_storage(pass.storage, [&](auto type) {
    using T = decltype(type);
    // A tile of 128 outputs reads A half as often; it pays where it is at least three quarters full.
    return pass.outputs % 128 == 0 || pass.outputs % 128 >= 96 || pass.outputs > 512
               ? launch_product<T, 128>(pass, stream)
               : launch_product<T, 64>(pass, stream);
  });
}

}  // namespace convfirst::cuda
