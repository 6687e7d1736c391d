// Checks and times every microkernel of kernels.inc on its own, without torch.
#include "inspect.h"

#include <chrono>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <vector>

#include "isa.h"

namespace convfirst {
namespace {

enum class Family { kGemm, kDepthwise, kGrouped8, kDepthwiseAny, kGrouped8Any, kGather, kFinish, kWiden, kPass };

struct Entry {
  const char* name;
  Family family;
  int first, second, third;  // gemm: rows, blocks; spatial: kernel, stride, tile; storage: type; pass: which
};

constexpr Family spatial_family(const char* name) {
  return name[0] == 'd' ? Family::kDepthwise : Family::kGrouped8;
}
constexpr Family any_family(const char* name) {
  return name[0] == 'd' ? Family::kDepthwiseAny : Family::kGrouped8Any;
}
constexpr Family storage_family(const char* name) {
  return name[0] == 'g' ? Family::kGather : name[0] == 'f' ? Family::kFinish : Family::kWiden;
}
constexpr int pass_index(const char* name) { return name[0] == 'a' ? 0 : name[1] == 'u' ? 1 : 2; }

const Entry kEntries[] = {
#define GEMM(rows, blocks) {"gemm_" #rows "x" #blocks, Family::kGemm, rows, blocks, 0},
#define SPATIAL(family, kernel, stride, tile) \
  {#family "_k" #kernel "s" #stride "_t" #tile, spatial_family(#family), kernel, stride, tile},
#define SPATIAL_ANY(family, tile) {#family "_any_t" #tile, any_family(#family), 3, 3, tile},
#define STORAGE(name, type) {#name "_" #type, storage_family(#name), static_cast<int>(StorageOf<type>::value), 0, 0},
#define PLAIN(name) {#name, Family::kPass, pass_index(#name), 0, 0},
#include "kernels.inc"
};
constexpr int kEntryCount = sizeof(kEntries) / sizeof(kEntries[0]);

int tile_slot(int tile) {
  for (int i = 0; i < kTileWidthCount; ++i) {
    if (kTileWidths[i] == tile) return i;
  }
  return -1;
}

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 2654435761u + 88172645463325252u) {}
  int below(int n) {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return static_cast<int>(state_ % static_cast<uint64_t>(n));
  }
  std::vector<float> integers(int64_t count) {
    std::vector<float> v(static_cast<size_t>(count));
    for (float& x : v) x = static_cast<float>(below(9) - 4);
    return v;
  }

 private:
  uint64_t state_;
};

// One prepared call: run() executes the kernel, error() compares its output with the scalar reference.
struct Trial {
  std::function<void()> run;
  std::function<double()> error;
  double flops = 0, bytes = 0;
};

double worst(const std::vector<float>& actual, const std::vector<float>& expected) {
  double largest = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    const double difference = std::fabs(static_cast<double>(actual[i]) - expected[i]);
    if (!(difference <= largest)) largest = difference;
  }
  return largest;
}

constexpr float kSentinel = 77.0f;  // stands where a kernel must not write

Trial gemm_trial(GemmKernel kernel, const Entry& e, Random& random, bool timing) {
  const int64_t rows = e.first, blocks = e.second, taps = timing ? 1 : 2, depth = timing ? 96 : 1 + random.below(23);
  const int64_t stride = depth * taps, last = timing ? kLanes : 1 + random.below(kLanes);
  const int64_t width = blocks * kLanes, block = taps * depth * kLanes;
  const int64_t row = timing ? 0 : random.below(10), column = row ? random.below(static_cast<int>(row)) : 0;
  const int64_t gap = 3, gaps = row ? (column + rows) / row : 0;
  auto a = std::make_shared<std::vector<float>>(random.integers(rows * stride));
  auto b = std::make_shared<std::vector<float>>(random.integers(blocks * block));
  auto bias = std::make_shared<std::vector<float>>(random.integers(width));
  auto residual = std::make_shared<std::vector<float>>(random.integers(rows * width));
  auto c = std::make_shared<std::vector<float>>(static_cast<size_t>(rows * width + gaps * gap), kSentinel);
  auto offsets = std::make_shared<std::vector<int64_t>>();
  for (int64_t t = 0; t < taps; ++t) offsets->push_back(t * depth);
  GemmArgs g{};
  g.a = a->data(), g.a_stride = stride, g.taps = offsets->data(), g.tap_count = taps, g.depth = depth;
  g.b = b->data(), g.b_block = block, g.init = bias->data(), g.init_block = kLanes;
  g.c = c->data(), g.c_stride = width, g.c_block = kLanes;
  g.c_row = row, g.c_column = column, g.c_gap = gap;
  g.residual = timing ? nullptr : residual->data(), g.residual_stride = width;
  g.low = -40.0f, g.high = 50.0f, g.last_lanes = last;
  Trial trial;
  trial.run = [=] { (void)offsets, (void)a, (void)b, (void)bias, (void)residual, (void)c, kernel(g); };
  trial.flops = 2.0 * rows * width * taps * depth;
  trial.bytes = 4.0 * (rows * stride + blocks * block + rows * width);
  trial.error = [=] {
    std::vector<float> expected(c->size(), kSentinel);
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t n = 0; n < width - kLanes + last; ++n) {
        float s = (*bias)[n];
        for (int64_t k = 0; k < taps * depth; ++k) {
          s += (*a)[i * stride + k] * (*b)[n / kLanes * block + k * kLanes + n % kLanes];
        }
        const int64_t position = i * width + (row ? (column + i) / row * gap : 0) + n;
        expected[position] = std::fmin(50.0f, std::fmax(-40.0f, s)) + (*residual)[i * width + n];
      }
    }
    return worst(*c, expected);
  };
  return trial;
}

Trial spatial_trial(SpatialKernel kernel, const Entry& e, bool grouped, bool any, Random& random, bool timing) {
  const int64_t tile = e.third, inputs = grouped ? 8 : 1;
  const int64_t size = any ? 1 + random.below(4) : e.first, kw = any && !timing ? 1 + random.below(9) : size;
  const int64_t stride = any ? 1 + random.below(3) : e.second, dilation = any ? 1 + random.below(3) : 1;
  const int64_t lanes = timing ? kLanes : 1 + random.below(kLanes), in_stride = kLanes + (timing ? 0 : random.below(5));
  const int64_t columns = (tile - 1) * stride + (kw - 1) * dilation + 1, missing = timing ? -1 : random.below(int(size) + 1);
  auto in = std::make_shared<std::vector<float>>(random.integers(size * columns * in_stride));
  auto weights = std::make_shared<std::vector<float>>(random.integers(size * kw * inputs * kLanes));
  auto bias = std::make_shared<std::vector<float>>(random.integers(kLanes));
  auto out = std::make_shared<std::vector<float>>(static_cast<size_t>(tile * kLanes), kSentinel);
  auto rows = std::make_shared<std::vector<const float*>>();
  for (int64_t ky = 0; ky < size; ++ky) {
    rows->push_back(ky == missing ? nullptr : in->data() + ky * columns * in_stride);
  }
  SpatialArgs s{};
  s.rows = rows->data(), s.in_stride = in_stride, s.weights = weights->data(), s.bias = bias->data();
  s.out = out->data(), s.out_stride = kLanes, s.lanes = lanes;
  s.kernel_h = size, s.kernel_w = kw, s.stride = stride, s.dilation = dilation, s.low = -30.0f, s.high = 90.0f;
  Trial trial;
  trial.run = [=] { (void)in, (void)weights, (void)bias, (void)out, (void)rows, kernel(s); };
  trial.flops = 2.0 * tile * kLanes * size * kw * inputs;
  trial.bytes = 4.0 * (size * columns + tile) * kLanes + 4.0 * weights->size();
  trial.error = [=] {
    std::vector<float> expected(out->size(), kSentinel);
    for (int64_t t = 0; t < tile; ++t) {
      for (int64_t lane = 0; lane < lanes; ++lane) {
        float sum = (*bias)[lane];
        for (int64_t ky = 0; ky < size; ++ky) {
          for (int64_t kx = 0; kx < kw && ky != missing; ++kx) {
            for (int64_t k = 0; k < inputs; ++k) {
              const int64_t channel = grouped ? lane / 8 * 8 + k : lane;
              const int64_t column = t * stride + kx * dilation;
              sum += (*in)[(ky * columns + column) * in_stride + channel] *
                     (*weights)[((ky * kw + kx) * inputs + k) * kLanes + lane];
            }
          }
        }
        expected[t * kLanes + lane] = std::fmin(90.0f, std::fmax(-30.0f, sum));
      }
    }
    return worst(*out, expected);
  };
  return trial;
}

// Small integers are exact in every storage type, so bytes are made by hand here.
std::vector<uint8_t> stored(const std::vector<float>& values, Storage storage) {
  const size_t size = storage == Storage::kFloat32 ? 4 : 2;
  std::vector<uint8_t> bytes(values.size() * size);
  for (size_t i = 0; i < values.size(); ++i) {
    uint32_t bits;
    std::memcpy(&bits, &values[i], 4);
    if (storage == Storage::kFloat32) {
      std::memcpy(&bytes[4 * i], &bits, 4);
    } else {
      const uint32_t sign = (bits >> 16) & 0x8000u, rest = bits & 0x7fffffffu;
      const uint16_t half = static_cast<uint16_t>(
          storage == Storage::kBFloat16 ? bits >> 16 : sign | (rest ? (rest - 0x38000000u) >> 13 : 0u));
      std::memcpy(&bytes[2 * i], &half, 2);
    }
  }
  return bytes;
}

Trial storage_trial(const KernelTable& table, const Entry& e, Random& random, bool timing) {
  const Storage storage = static_cast<Storage>(e.first);
  const int64_t pixels = timing ? 56 : 1 + random.below(7), lanes = timing ? kLanes : 1 + random.below(kLanes);
  const int64_t stride = lanes + (timing ? 0 : random.below(4)), count = pixels * stride;
  auto values = std::make_shared<std::vector<float>>(random.integers(count));
  auto bytes = std::make_shared<std::vector<uint8_t>>(stored(*values, storage));
  Trial trial;
  trial.bytes = 4.0 * pixels * kLanes + static_cast<double>(bytes->size());
  if (e.family == Family::kFinish) {
    const std::vector<float> floats = random.integers(pixels * kLanes);
    auto in = std::make_shared<std::vector<float>>(floats);
    auto residual = bytes;
    auto out = std::make_shared<std::vector<uint8_t>>(
        stored(std::vector<float>(static_cast<size_t>(count), 3.0f), storage));
    FinishArgs f{};
    f.in = in->data(), f.in_stride = kLanes, f.in_block = 0, f.out = out->data(), f.out_stride = stride;
    f.residual = residual->data(), f.residual_stride = stride;
    f.pixels = pixels, f.channels = lanes, f.activation = Activation::kRelu;
    const FinishKernel kernel = table.finish[e.first];
    trial.run = [=] { (void)in, (void)residual, (void)out, kernel(f); };
    trial.error = [=] {
      std::vector<float> expected(static_cast<size_t>(count), 3.0f);
      for (int64_t p = 0; p < pixels; ++p) {
        for (int64_t lane = 0; lane < lanes; ++lane) {
          expected[p * stride + lane] = std::fmax(0.0f, (*in)[p * kLanes + lane]) + (*values)[p * stride + lane];
        }
      }
      return stored(expected, storage) == *out ? 0.0 : 1.0;
    };
    return trial;
  }
  const bool gathers = e.family == Family::kGather;
  auto out = std::make_shared<std::vector<float>>(static_cast<size_t>(gathers ? pixels * kLanes : count), kSentinel);
  const GatherArgs g{bytes->data(), stride, out->data(), pixels, lanes};
  const GatherKernel gather = table.gather[e.first];
  const WidenKernel widen = table.widen[e.first];
  trial.run = [=] {
    (void)bytes;
    gathers ? gather(g) : widen(bytes->data(), out->data(), count);
  };
  trial.error = [=] {
    if (!gathers) return worst(*out, *values);
    std::vector<float> expected(out->size(), 0.0f);
    for (int64_t p = 0; p < pixels; ++p) {
      for (int64_t lane = 0; lane < lanes; ++lane) expected[p * kLanes + lane] = (*values)[p * stride + lane];
    }
    return worst(*out, expected);
  };
  return trial;
}

double reference(Activation activation, double x) {
  switch (activation) {
    case Activation::kRelu: return std::fmax(0.0, x);
    case Activation::kRelu6: return std::fmin(6.0, std::fmax(0.0, x));
    case Activation::kSilu: return x / (1.0 + std::exp(-x));
    case Activation::kHardswish: return x * std::fmin(1.0, std::fmax(0.0, x / 6.0 + 0.5));
    case Activation::kGelu: return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
    case Activation::kGeluTanh: return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::kSigmoid: return 1.0 / (1.0 + std::exp(-x));
    case Activation::kHardsigmoid: return std::fmin(1.0, std::fmax(0.0, x / 6.0 + 0.5));
    default: return x;
  }
}

// Activations are rounded: 0 where every value is within 5e-7, relative above one and absolute below.
double activation_error(const KernelTable& table) {
  double largest = 0;
  for (int a = 0; a <= static_cast<int>(Activation::kHardsigmoid); ++a) {
    std::vector<float> x(4096);
    for (size_t i = 0; i < x.size(); ++i) x[i] = -110.0f + 220.0f * static_cast<float>(i) / static_cast<float>(x.size());
    for (size_t i = 0; i < x.size() / 2; ++i) x[i] *= 0.1f;
    std::vector<float> y = x;
    table.activate(y.data(), static_cast<int64_t>(y.size()) / kLanes, static_cast<Activation>(a));
    for (size_t i = 0; i < x.size(); ++i) {
      const double expected = reference(static_cast<Activation>(a), x[i]);
      const double error = std::fabs(y[i] - expected) / std::fmax(1.0, std::fabs(expected));
      if (!(error <= largest)) largest = error;
    }
  }
  return largest <= 5e-7 ? 0.0 : largest;
}

Trial pass_trial(const KernelTable& table, const Entry& e, Random& random, bool timing) {
  const int64_t pixels = timing ? 56 : 1 + random.below(9);
  auto values = std::make_shared<std::vector<float>>(random.integers(pixels * kLanes));
  auto before = std::make_shared<std::vector<float>>(*values);
  auto lanes = std::make_shared<std::vector<float>>(random.integers(kLanes));
  auto lanes_before = std::make_shared<std::vector<float>>(*lanes);
  const int which = e.first;
  const KernelTable* t = &table;
  Trial trial;
  trial.bytes = 8.0 * pixels * kLanes;
  trial.run = [=] {
    if (which == 0) t->activate(values->data(), pixels, Activation::kRelu6);
    if (which == 1) t->sum(values->data(), pixels, lanes->data());
    if (which == 2) t->scale(values->data(), pixels, lanes->data());
  };
  trial.error = [=] {
    std::vector<float> expected = *before, totals = *lanes_before;
    for (int64_t i = 0; i < pixels * kLanes; ++i) {
      const int64_t lane = i % kLanes;
      if (which == 0) expected[i] = std::fmin(6.0f, std::fmax(0.0f, expected[i]));
      if (which == 1) totals[lane] += expected[i];
      if (which == 2) expected[i] *= (*lanes_before)[lane];
    }
    const double error = std::fmax(worst(*values, expected), worst(*lanes, totals));
    return which == 0 ? std::fmax(error, activation_error(*t)) : error;
  };
  return trial;
}

SpatialKernel spatial_kernel(const KernelTable& table, const Entry& e) {
  const bool depthwise = e.family == Family::kDepthwise || e.family == Family::kDepthwiseAny;
  const SpatialFamily& family = depthwise ? table.depthwise : table.grouped8;
  const bool any = e.family == Family::kDepthwiseAny || e.family == Family::kGrouped8Any;
  const int slot = tile_slot(e.third);
  return any ? family.generic[slot] : family.special[(e.first - 3) / 2][e.second - 1][slot];
}

bool exists(int isa, int kernel) {
  const KernelTable* table = kernels_of(isa);
  const Entry& e = kEntries[kernel];
  if (!table) return false;
  if (e.family == Family::kGemm) return table->gemm[e.second - 1][e.first - 1] != nullptr;
  if (e.family <= Family::kGrouped8Any) return spatial_kernel(*table, e) != nullptr;
  return true;
}

Trial make_trial(int isa, int kernel, uint64_t seed, bool timing) {
  const KernelTable& table = *kernels_of(isa);
  const Entry& e = kEntries[kernel];
  Random random(seed + 1);
  switch (e.family) {
    case Family::kGemm: return gemm_trial(table.gemm[e.second - 1][e.first - 1], e, random, timing);
    case Family::kDepthwise: return spatial_trial(spatial_kernel(table, e), e, false, false, random, timing);
    case Family::kGrouped8: return spatial_trial(spatial_kernel(table, e), e, true, false, random, timing);
    case Family::kDepthwiseAny: return spatial_trial(spatial_kernel(table, e), e, false, true, random, timing);
    case Family::kGrouped8Any: return spatial_trial(spatial_kernel(table, e), e, true, true, random, timing);
    case Family::kPass: return pass_trial(table, e, random, timing);
    default: return storage_trial(table, e, random, timing);
  }
}

double check(int isa, int kernel, uint64_t seed) {
  const Trial trial = make_trial(isa, kernel, seed, false);
  trial.run();
  return trial.error();
}

KernelTiming time_kernel(int isa, int kernel, double seconds) {
  using Clock = std::chrono::steady_clock;
  const Trial trial = make_trial(isa, kernel, 1, true);
  const auto start = Clock::now();
  double best = std::numeric_limits<double>::infinity();
  do {
    constexpr int kRepeats = 200;
    const auto before = Clock::now();
    for (int i = 0; i < kRepeats; ++i) trial.run();
    best = std::fmin(best, std::chrono::duration<double, std::nano>(Clock::now() - before).count() / kRepeats);
  } while (std::chrono::duration<double>(Clock::now() - start).count() < seconds);
  return {best, trial.flops, trial.bytes};
}

const KernelInspector kInspector = {
    kIsaCount,
    isa_name,
    [](int isa) { return kernels_of(isa) != nullptr; },
    [] { return kernels().isa; },
    [] { return kEntryCount; },
    [](int kernel) { return kEntries[kernel].name; },
    exists,
    check,
    time_kernel,
};

}  // namespace
}  // namespace convfirst

const convfirst::KernelInspector* convfirst_kernel_inspector() { return &convfirst::kInspector; }
