// Runs a ConvNeXt block in two phases. The depthwise convolution writes its rows to scratch of one image, a hundredth
// of the block's arithmetic. Then runs of pixels go through layer norm and both matrix products: chunks of hidden
// channels are expanded, activated and added to the run's sums while they are in the cache, so that the hidden tensor,
// four times the input, is never written. Where an image has fewer pixels than would occupy the threads (7x7), they
// share hidden channels and then output channels instead, and the small hidden tensor is kept.
#include "convnext_block.h"

#include <algorithm>

#include "microkernels/isa.h"
#include "parallel.h"

namespace convfirst {
namespace {

constexpr int64_t kLeastRun = 28;    // fewer pixels a thread: share channels
constexpr int64_t kMostRun = 112;    // pixels: the run's sums and normalised inputs stay in the L2 cache
constexpr int64_t kChunkBlocks = 8;  // hidden channels / 16 in flight

class Runner {
 public:
  explicit Runner(const ConvNextBlock& block)
      : block_(block),
        kernels_(kernels()),
        in_c_(block.conv.in.c),
        pixels_(block.conv.out_h * block.conv.out_w),
        hidden_blocks_(ceil_div(block.hidden, kLanes)),
        out_blocks_(ceil_div(block.out_c, kLanes)),
        clamp_(clamp_of(block.activation)) {}

  // The images that go through both phases together: enough pixels for the threads, little enough to stay cached.
  void run() const {
    constexpr int64_t kCachedFloats = 1 << 18;
    const int64_t images = std::clamp<int64_t>(kCachedFloats / (pixels_ * in_c_), 1, block_.conv.in.n);
    for (int64_t n = 0; n < block_.conv.in.n; n += images) run_images(n, std::min(images, block_.conv.in.n - n));
  }

 private:
  void run_images(int64_t first, int64_t images) const {
    const int64_t total = images * pixels_, threads = thread_count();
    const int64_t hidden_floats = total < threads * kLeastRun ? hidden_blocks_ * kLanes * total : 0;
    float* convolved = call_scratch(total * in_c_ + hidden_floats);
    Convolution conv = block_.conv;
    conv.in.data = offset(conv.in.data, conv.in.storage, first * conv.in.h * conv.in.w * in_c_);
    conv.in.n = images, conv.out = convolved, conv.activation = Activation::kIdentity, conv.residual = nullptr;
    run_spatial(conv);
    if (hidden_floats) return run_kept(first * pixels_, total, convolved, convolved + total * in_c_);
    const int64_t runs = ceil_div(ceil_div(total, kMostRun), threads) * threads, run = ceil_div(total, runs);
    for_each_task(ceil_div(total, run), [&](int64_t task) {
      const int64_t start = task * run;
      run_pixels(first * pixels_ + start, std::min(run, total - start), convolved, start);
    });
  }

  // Reads convolved pixels [start, start + count), in fp32 and normalised; in place where they are fp32 already.
  float* normalized(float* convolved, int64_t start, int64_t count, float* scratch) const {
    float* values = convolved + start * in_c_;
    const Storage storage = block_.conv.in.storage;
    if (storage != Storage::kFloat32) {
      kernels_.widen[static_cast<int>(storage)](offset(convolved, storage, start * in_c_), scratch, count * in_c_);
      values = scratch;
    }
    kernels_.normalize({values, in_c_, count, in_c_, block_.epsilon, nullptr, nullptr});
    return values;
  }

  void run_pixels(int64_t position, int64_t count, float* convolved, int64_t start) const {
    const int64_t widened = block_.conv.in.storage == Storage::kFloat32 ? 0 : ceil_div(count * in_c_, kLanes) * kLanes;
    const int64_t tap_floats = 2 * kChunkBlocks * kLanes, chunk_floats = kChunkBlocks * count * kLanes;
    float* scratch = task_scratch(widened + tap_floats + chunk_floats + out_blocks_ * count * kLanes);
    const float* inputs = normalized(convolved, start, count, scratch);
    Projection p{};
    p.taps = reinterpret_cast<int64_t*>(scratch + widened);
    float* hidden = scratch + widened + tap_floats;
    p.hidden = hidden, p.sums = hidden + chunk_floats, p.pixels = count, p.position = position;
    p.blocks = out_blocks_;
    for (p.first = 0; p.first < hidden_blocks_; p.first += kChunkBlocks) {
      p.count = std::min(kChunkBlocks, hidden_blocks_ - p.first);
      expand(inputs, count, p.first, p.count, hidden);
      project(p);
    }
  }

  void run_kept(int64_t position, int64_t count, float* convolved, float* hidden) const {
    float* inputs = convolved;
    if (block_.conv.in.storage == Storage::kFloat32) {
      share_tasks(count, [&](int64_t a, int64_t b) { normalized(convolved, a, b - a, nullptr); });
    } else {
      inputs = normalized(convolved, 0, count, task_scratch(count * in_c_));
    }
    share_tasks(hidden_blocks_,
                [&](int64_t a, int64_t b) { expand(inputs, count, a, b - a, hidden + a * count * kLanes); });
    share_tasks(out_blocks_, [&](int64_t a, int64_t b) {
      const int64_t tap_floats = 2 * hidden_blocks_ * kLanes;
      float* scratch = task_scratch(tap_floats + count * (b - a) * kLanes);
      Projection p{};
      p.taps = reinterpret_cast<int64_t*>(scratch);
      p.hidden = hidden, p.sums = scratch + tap_floats, p.pixels = count, p.position = position;
      p.first = 0, p.count = hidden_blocks_, p.block = a, p.blocks = b - a;
      project(p);
    });
  }

  // out[block][pixel][16], activated.
  void expand(const float* inputs, int64_t count, int64_t first, int64_t blocks, float* out) const {
    static constexpr int64_t kNoOffset[] = {0};
    GemmArgs g{};
    g.a = inputs, g.a_stride = in_c_, g.taps = kNoOffset, g.tap_count = 1, g.depth = in_c_;
    g.b = block_.expand_weights + first * in_c_ * kLanes, g.b_block = in_c_ * kLanes;
    g.init = block_.expand_bias + first * kLanes, g.init_block = kLanes;
    g.c = out, g.c_stride = kLanes, g.c_block = count * kLanes;
    g.low = clamp_.low, g.high = clamp_.high, g.last_lanes = kLanes;
    multiply(kernels_, g, count, blocks);
    if (!clamp_.exact) kernels_.activate(out, blocks * count, block_.activation);
  }

  struct Projection {
    const float* hidden;   // [hidden block][pixel][16]
    int64_t first, count;  // hidden blocks taken now
    float* sums;           // [out block][pixel][16]
    int64_t* taps;
    int64_t pixels, position;
    int64_t block, blocks;  // output blocks
  };

  // Adds a chunk's products to the sums; the last chunk gives the output. A last hidden block that is not whole takes
  // part only as far as it has channels.
  void project(const Projection& p) const {
    const bool starts = p.first == 0, ends = p.first + p.count == hidden_blocks_;
    const int64_t channels = std::min(p.count * kLanes, block_.hidden - p.first * kLanes);
    const int64_t depth = channels % kLanes == 0 ? kLanes : 1;
    for (int64_t t = 0; t < channels / depth; ++t) {
      p.taps[t] = t * depth / kLanes * p.pixels * kLanes + t * depth % kLanes;
    }
    const Storage storage = block_.conv.in.storage;
    const bool direct = ends && storage == Storage::kFloat32;
    const int64_t element = p.position * block_.out_c + p.block * kLanes;
    const bool tail = p.block + p.blocks == out_blocks_;
    const int64_t last_lanes = tail ? block_.out_c - (out_blocks_ - 1) * kLanes : kLanes;
    void* out = offset(block_.out, storage, element);
    const void* residual = block_.residual ? offset(block_.residual, storage, element) : nullptr;
    GemmArgs g{};
    g.a = p.hidden, g.a_stride = kLanes, g.taps = p.taps, g.tap_count = channels / depth, g.depth = depth;
    g.b = block_.project_weights + (p.block * block_.hidden + p.first * kLanes) * kLanes;
    g.b_block = block_.hidden * kLanes;
    g.init = starts ? block_.project_bias + p.block * kLanes : p.sums;
    g.init_stride = starts ? 0 : kLanes, g.init_block = starts ? kLanes : p.pixels * kLanes;
    g.c = direct ? static_cast<float*>(out) : p.sums;
    g.c_stride = direct ? block_.out_c : kLanes, g.c_block = direct ? kLanes : p.pixels * kLanes;
    g.residual = direct ? static_cast<const float*>(residual) : nullptr, g.residual_stride = block_.out_c;
    const Clamp none = clamp_of(Activation::kIdentity);
    g.low = none.low, g.high = none.high, g.last_lanes = last_lanes;
    multiply(kernels_, g, p.pixels, p.blocks);
    if (!ends || direct) return;
    FinishArgs f{};
    f.in = p.sums, f.in_stride = kLanes, f.in_block = p.pixels * kLanes, f.out = out, f.out_stride = block_.out_c;
    f.residual = residual, f.residual_stride = block_.out_c, f.pixels = p.pixels;
    f.channels = (p.blocks - 1) * kLanes + last_lanes;
    kernels_.finish[static_cast<int>(storage)](f);
  }

  const ConvNextBlock& block_;
  const KernelTable& kernels_;
  const int64_t in_c_, pixels_, hidden_blocks_, out_blocks_;
  const Clamp clamp_;
};

}  // namespace

void run_convnext_block(const ConvNextBlock& block) { Runner(block).run(); }

}  // namespace convfirst
