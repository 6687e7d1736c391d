// Checks and times every microkernel of kernels.inc on its own, without torch.
#include "inspect.h"

#include <chrono>
#include <cmath>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "trial.h"

namespace convfirst {
namespace {

enum class Family {
  kGemm,
  kGemmNarrow,
  kOuter,
  kInner,
  kDepthwise,
  kGrouped8,
  kDepthwiseAny,
  kGrouped8Any,
  kStorage,
  kWinograd,
  kPlain,
  kNorm
};

struct Entry {
  const char* name;
  Family family;
  int first, second, third;  // gemm: rows, blocks; spatial: kernel, stride, tile; Winograd: tile, part;
                             // passes: which, storage type
};

constexpr bool is_depthwise(const char* name) { return name[0] == 'd'; }
constexpr Pass pass_named(const char* name) {
  switch (name[0]) {
    case 'g': return Pass::kGather;
    case 'f': return Pass::kFinish;
    case 'w': return Pass::kWiden;
    case 'a': return Pass::kActivate;
    case 'b': return Pass::kBlur;
    case 'i': return Pass::kInterleave;
    case 'n': return Pass::kNormalize;
    case 'r': return Pass::kRescale;
    default: return name[1] == 'u' ? Pass::kSum : Pass::kScale;
  }
}

constexpr NormPass norm_pass_named(const char* name) {
  switch (name[0]) {
    case 'c': return NormPass::kCombine;
    case 'g': return NormPass::kGateGrad;
    case 'm': return NormPass::kMoments;
    default: return name[1] == 'p' ? NormPass::kApply : NormPass::kActivationGrad;
  }
}

constexpr WinogradPart winograd_part_named(const char* name) {
  return name[9] == 'i' ? WinogradPart::kInput : name[9] == 'f' ? WinogradPart::kFilter : WinogradPart::kOutput;
}

const Entry kEntries[] = {
#define GEMM(rows, blocks) {"gemm_" #rows "x" #blocks, Family::kGemm, rows, blocks, 0},
#define GEMM_NARROW(rows) {"gemm_narrow_" #rows, Family::kGemmNarrow, rows, 1, 0},
#define OUTER(rows, blocks) {"outer_" #rows "x" #blocks, Family::kOuter, rows, blocks, 0},
#define INNER(name) {#name, Family::kInner, #name[5] == '8' ? 8 : 0, sizeof(#name) > 8 ? 3 : 1, 0},
#define SPATIAL(family, kernel, stride, tile)                                                                   \
  {#family "_k" #kernel "s" #stride "_t" #tile, is_depthwise(#family) ? Family::kDepthwise : Family::kGrouped8, \
   kernel, stride, tile},
#define SPATIAL_ANY(family, tile) \
  {#family "_any_t" #tile, is_depthwise(#family) ? Family::kDepthwiseAny : Family::kGrouped8Any, 3, 3, tile},
#define STORAGE(name, type) \
  {#name "_" #type, Family::kStorage, static_cast<int>(pass_named(#name)), static_cast<int>(StorageOf<type>::value), 0},
#define WINOGRAD(name, tile) \
  {#name "_" #tile, Family::kWinograd, tile, static_cast<int>(winograd_part_named(#name)), 0},
#define PLAIN(name) {#name, Family::kPlain, static_cast<int>(pass_named(#name)), 0, 0},
#define NORM(name) {#name, Family::kNorm, static_cast<int>(norm_pass_named(#name)), 0, 0},
#include "kernels.inc"
};
constexpr int kEntryCount = sizeof(kEntries) / sizeof(kEntries[0]);

// Every entry exists in fp32 and, numbered behind all of those, in fp16 where the instruction set has its own.
constexpr int kKernelCount = 2 * kEntryCount;

const char* name_of(int kernel) {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> all;
    for (const Entry& e : kEntries) all.push_back(e.name);
    for (const Entry& e : kEntries) all.push_back("fp16_" + std::string(e.name));
    return all;
  }();
  return names[kernel].c_str();
}

template <class E>
const Kernels<E>* own_kernels(int isa) {
  const KernelTable* table = kernels_of(isa);
  if (!table) return nullptr;
  if constexpr (std::is_same_v<E, float>) {
    return &table->fp32;
  } else {
    return table->half_arithmetic == HalfArithmetic::kBorrowed ? nullptr : table->fp16;
  }
}

int tile_slot(int tile) {
  for (int i = 0; i < kTileWidthCount; ++i) {
    if (kTileWidths[i] == tile) return i;
  }
  return -1;
}

template <class E>
SpatialKernel<E> spatial_kernel(const Kernels<E>& table, const Entry& e) {
  const bool depthwise = e.family == Family::kDepthwise || e.family == Family::kDepthwiseAny;
  const SpatialFamily<E>& family = depthwise ? table.depthwise : table.grouped8;
  const bool any = e.family == Family::kDepthwiseAny || e.family == Family::kGrouped8Any;
  const int slot = tile_slot(e.third);
  return any ? family.generic[slot] : family.special[(e.first - 3) / 2][e.second - 1][slot];
}

template <class E>
bool exists_in(int isa, const Entry& e) {
  const Kernels<E>* table = own_kernels<E>(isa);
  if (!table) return false;
  if (e.family == Family::kGemm) return table->gemm[e.second - 1][e.first - 1] != nullptr;
  if (e.family == Family::kGemmNarrow) return table->gemm_narrow[e.first - 1] != nullptr;
  if (e.family == Family::kOuter) return table->outer[e.second - 1][e.first - 1] != nullptr;
  if (e.family == Family::kInner) return table->inner != nullptr;
  if (e.family == Family::kWinograd) return table->winograd_input[0] != nullptr;
  if (e.family == Family::kNorm) return table->moments != nullptr;
  if (e.family <= Family::kGrouped8Any) return spatial_kernel(*table, e) != nullptr;
  return e.family == Family::kPlain || table->widen[e.second] != nullptr;
}

bool exists(int isa, int kernel) {
  return kernel < kEntryCount ? exists_in<float>(isa, kEntries[kernel])
                              : exists_in<Half>(isa, kEntries[kernel - kEntryCount]);
}

template <class E>
Trial trial_in(int isa, const Entry& e, uint64_t seed, bool timing) {
  const Kernels<E>& table = *own_kernels<E>(isa);
  Random random(seed + 1);
  const bool grouped = e.family == Family::kGrouped8 || e.family == Family::kGrouped8Any;
  const bool any = e.family == Family::kDepthwiseAny || e.family == Family::kGrouped8Any;
  switch (e.family) {
    case Family::kGemm:
      return gemm_trial<E>(table.gemm[e.second - 1][e.first - 1], {e.first, e.second, kLanesOf<E>}, random, timing);
    case Family::kGemmNarrow:
      return gemm_trial<E>(table.gemm_narrow[e.first - 1], {e.first, 1, kNarrowLanesOf<E>}, random, timing);
    case Family::kOuter:
      return outer_trial<E>(table.outer[e.second - 1][e.first - 1], {e.first, e.second, false}, random, timing);
    case Family::kInner:
      if (e.second == 3) return three_trial<E>(table.inner8_three, random, timing);
      return outer_trial<E>(e.first ? table.inner8 : table.inner, {e.first, 1, true}, random, timing);
    case Family::kStorage:
      return storage_trial<E>(table, static_cast<Pass>(e.first), static_cast<Storage>(e.second), random, timing);
    case Family::kWinograd:
      return winograd_trial<E>(table, {e.first, static_cast<WinogradPart>(e.second)}, random, timing);
    case Family::kNorm: return norm_trial<E>(table, static_cast<NormPass>(e.first), random, timing);
    case Family::kPlain: return plain_trial<E>(table, static_cast<Pass>(e.first), random, timing);
    default:
      return spatial_trial<E>(spatial_kernel(table, e), {e.first, e.second, e.third, grouped, any}, random, timing);
  }
}

Trial make_trial(int isa, int kernel, uint64_t seed, bool timing) {
  return kernel < kEntryCount ? trial_in<float>(isa, kEntries[kernel], seed, timing)
                              : trial_in<Half>(isa, kEntries[kernel - kEntryCount], seed, timing);
}

double check(int isa, int kernel, uint64_t seed) {
  const Trial trial = make_trial(isa, kernel, seed, false);
  trial.run();
  return trial.error();
}

// The fastest of many rounds.
template <class Run>
double nanoseconds_of(const Run& run, double seconds) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  double best = std::numeric_limits<double>::infinity();
  do {
    constexpr int kRepeats = 200;
    const auto before = Clock::now();
    for (int i = 0; i < kRepeats; ++i) run();
    best = std::fmin(best, std::chrono::duration<double, std::nano>(Clock::now() - before).count() / kRepeats);
  } while (std::chrono::duration<double>(Clock::now() - start).count() < seconds);
  return best;
}

KernelTiming time_kernel(int isa, int kernel, double seconds) {
  const Trial trial = make_trial(isa, kernel, 1, true);
  return {nanoseconds_of(trial.run, seconds), trial.flops, trial.bytes};
}

double time_activation(int isa, int activation, double seconds) {
  constexpr int64_t kPixels = 56, kElements = kPixels * kLanes;
  Random random(1);
  const std::vector<float> in = random.integers(kElements);
  std::vector<float> out(kElements);
  FinishArgs<float> f{};
  f.in = in.data(), f.in_stride = kLanes, f.out = out.data(), f.out_stride = kLanes;
  f.pixels = kPixels, f.channels = kLanes, f.activation = static_cast<Activation>(activation);
  const FinishKernel<float> finish = own_kernels<float>(isa)->finish[static_cast<int>(Storage::kFloat32)];
  return nanoseconds_of([&] { finish(f); }, seconds) / static_cast<double>(kElements);
}

const KernelInspector kInspector = {
    kIsaCount,
    isa_name,
    [](int isa) { return kernels_of(isa) != nullptr; },
    [] { return kernels().isa; },
    [] { return kernels().half_arithmetic == HalfArithmetic::kNative; },
    [] { return kKernelCount; },
    name_of,
    exists,
    check,
    time_kernel,
    time_activation,
};

}  // namespace
}  // namespace convfirst

const convfirst::KernelInspector* convfirst_kernel_inspector() { return &convfirst::kInspector; }
