// Runs a ConvNeXt or ConvFirst block in two phases. The convolution writes its rows to scratch of one image, a
// hundredth of the block's arithmetic. Then runs of pixels go through layer norm and both matrix products: chunks of
// hidden channels are expanded, activated and added to the run's sums while they are in the cache, so that the hidden
// tensor, four times the input, is never written. Where an image has fewer pixels than would occupy the threads (7x7),
// they share hidden channels and then output channels instead, and the small hidden tensor is kept.
#include "convnext_block.h"

#include <algorithm>

#include "microkernels/isa.h"
#include "parallel.h"
#include "projection.h"

namespace convfirst {
namespace {

constexpr int64_t kLeastRun = 28;    // fewer pixels a thread: share channels
constexpr int64_t kMostRun = 112;    // pixels: the run's sums and normalised inputs stay in the L2 cache
constexpr int64_t kChunkBlocks = 8;  // hidden channels / 16 in flight

template <class E>
class Runner {
 public:
  explicit Runner(const ConvNextBlock<E>& block)
      : block_(block),
        kernels_(kernels_for<E>()),
        in_c_(block.conv.in.c),
        pixels_(block.conv.out_h * block.conv.out_w),
        hidden_blocks_(ceil_div(block.hidden, kLanes)),
        out_blocks_(ceil_div(block.out_c, kLanes)),
        clamp_(clamp_of(block.activation)),
        projection_{block.project_weights, block.project_bias, block.hidden, block.out_c, Activation::kIdentity,
                    block.conv.in.storage, block.residual,     block.out,    false} {}

  // The images that go through both phases together: enough pixels for the threads, little enough to stay cached.
  void run() const {
    constexpr int64_t kCachedElements = (1 << 20) / sizeof(E);
    const int64_t images = std::clamp<int64_t>(kCachedElements / (pixels_ * in_c_), 1, block_.conv.in.n);
    for (int64_t n = 0; n < block_.conv.in.n; n += images) run_images(n, std::min(images, block_.conv.in.n - n));
  }

 private:
  static constexpr int64_t kLanes = kLanesOf<E>;

  void run_images(int64_t first, int64_t images) const {
    const int64_t total = images * pixels_, threads = thread_count();
    const int64_t kept = total < threads * kLeastRun ? hidden_blocks_ * kLanes * total : 0;
    E* convolved = call_scratch<E>(total * in_c_ + kept);
    Convolution<E> conv = block_.conv;
    conv.in.data = offset(conv.in.data, conv.in.storage, first * conv.in.h * conv.in.w * in_c_);
    conv.in.n = images, conv.out = convolved, conv.activation = Activation::kIdentity, conv.residual = nullptr;
    run_spatial(conv);
    if (kept) return run_kept(first * pixels_, total, convolved, convolved + total * in_c_);
    const int64_t runs = ceil_div(ceil_div(total, kMostRun), threads) * threads, run = ceil_div(total, runs);
    for_each_task(ceil_div(total, run), [&](int64_t task) {
      const int64_t start = task * run;
      run_pixels(first * pixels_ + start, std::min(run, total - start), convolved, start);
    });
  }

  // Reads convolved pixels [start, start + count), in fp32 and normalised if the block does; in place where they are
  // fp32 already.
  E* normalized(E* convolved, int64_t start, int64_t count, E* scratch) const {
    E* values = convolved + start * in_c_;
    const Storage storage = block_.conv.in.storage;
    if (storage != StorageOf<E>::value) {
      kernels_.widen[static_cast<int>(storage)](offset(convolved, storage, start * in_c_), scratch, count * in_c_);
      values = scratch;
    }
    if (block_.normalizes) kernels_.normalize({values, in_c_, count, in_c_, block_.epsilon, nullptr, nullptr});
    return values;
  }

  void run_pixels(int64_t position, int64_t count, E* convolved, int64_t start) const {
    const int64_t widened = floats_for<E>(block_.conv.stores_elements() ? 0 : ceil_div(count * in_c_, kLanes) * kLanes);
    const int64_t tap_floats = projection_.tap_floats(kChunkBlocks);
    const int64_t chunk_floats = floats_for<E>(kChunkBlocks * count * kLanes);
    float* scratch = task_scratch(widened + tap_floats + chunk_floats + out_blocks_ * count * kLanes);
    const E* inputs = normalized(convolved, start, count, reinterpret_cast<E*>(scratch));
    ProjectionPart<E> p{};
    p.taps = reinterpret_cast<int64_t*>(scratch + widened);
    E* hidden = reinterpret_cast<E*>(scratch + widened + tap_floats);
    p.hidden = hidden, p.sums = scratch + widened + tap_floats + chunk_floats, p.pixels = count, p.position = position;
    p.hidden_block = p.sum_block = count * kLanes, p.blocks = out_blocks_;
    for (p.first = 0; p.first < hidden_blocks_; p.first += kChunkBlocks) {
      p.count = std::min(kChunkBlocks, hidden_blocks_ - p.first);
      expand(inputs, count, p.first, p.count, hidden);
      project(kernels_, projection_, p);
    }
  }

  void run_kept(int64_t position, int64_t count, E* convolved, E* hidden) const {
    E* inputs = convolved;
    if (block_.conv.stores_elements()) {
      share_tasks(count, [&](int64_t a, int64_t b) { normalized(convolved, a, b - a, nullptr); });
    } else {
      inputs = normalized(convolved, 0, count, task_scratch<E>(count * in_c_));
    }
    share_tasks(hidden_blocks_,
                [&](int64_t a, int64_t b) { expand(inputs, count, a, b - a, hidden + a * count * kLanes); });
    share_tasks(out_blocks_, [&](int64_t a, int64_t b) {
      const int64_t tap_floats = projection_.tap_floats(hidden_blocks_);
      float* scratch = task_scratch(tap_floats + count * (b - a) * kLanes);
      ProjectionPart<E> p{};
      p.taps = reinterpret_cast<int64_t*>(scratch);
      p.hidden = hidden, p.sums = scratch + tap_floats, p.pixels = count, p.position = position;
      p.hidden_block = p.sum_block = count * kLanes;
      p.first = 0, p.count = hidden_blocks_, p.block = a, p.blocks = b - a;
      project(kernels_, projection_, p);
    });
  }

  // out[block][pixel][lane], activated.
  void expand(const E* inputs, int64_t count, int64_t first, int64_t blocks, E* out) const {
    static constexpr int64_t kNoOffset[] = {0};
    GemmArgs<E> g{};
    g.a = inputs, g.a_stride = in_c_, g.taps = kNoOffset, g.tap_count = 1, g.depth = in_c_;
    g.b = block_.expand_weights + first * in_c_ * kLanes, g.b_block = in_c_ * kLanes;
    g.init = block_.expand_bias + first * kLanes, g.init_block = kLanes;
    g.c = out, g.c_stride = kLanes, g.c_block = count * kLanes;
    g.low = clamp_.low, g.high = clamp_.high, g.last_lanes = kLanes;
    multiply(kernels_, g, count, blocks);
    if (!clamp_.exact) kernels_.activate(out, blocks * count, block_.activation);
  }

  const ConvNextBlock<E>& block_;
  const Kernels<E>& kernels_;
  const int64_t in_c_, pixels_, hidden_blocks_, out_blocks_;
  const Clamp clamp_;
  const Projection<E> projection_;
};

}  // namespace

template <class E>
void run_convnext_block(const ConvNextBlock<E>& block) {
  Runner<E>(block).run();
}

template void run_convnext_block(const ConvNextBlock<float>&);
template void run_convnext_block(const ConvNextBlock<Half>&);

}  // namespace convfirst
