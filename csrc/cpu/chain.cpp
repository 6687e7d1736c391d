// Runs a chain of packed blocks in one call: one trip through the dispatcher, one team of threads, one arena for what
// lies between the blocks. The batch goes through the whole chain in groups of images whose activations fit the cache,
// so that neither the arena nor the time an image takes grows with the batch.
#include <algorithm>
#include <chrono>
#include <optional>
#include <string>
#include <tuple>

#include "chain_program.h"
#include "depth_first.h"
#include "interrupts.h"
#include "kept_memory.h"
#include "microkernels/isa.h"
#include "parallel.h"

namespace convfirst {
namespace {

constexpr int64_t kAlignedBytes = 64;

struct Value {
  int64_t offset = 0, bytes = 0;  // in the arena
  int64_t born = 0, last_use = 0;
  int64_t uses = 0;     // steps that read or add it
  bool inside = false;  // lives in bands of rows only
};

// Steps that are taken together: several of them in bands of rows.
template <class E>
struct Segment {
  int64_t first, count;
  std::optional<DepthFirst<E>> bands;
};

// Computes in E. In fp32 the values between the steps are fp32 whatever the caller's storage is: they stay in the
// cache, where narrowing and widening would only cost time. fp16 arithmetic takes and keeps fp16.
template <class E>
class Chain {
 public:
  Chain(const Tensor& input, const Tensor& weights, const std::string& program)
      : outside_(view_input(input)), input_(widened(outside_)), steps_(read_chain<E>(input_, weights, program)) {
    note_uses();
    find_segments();
    group_ = group_size();
    place_values();
  }

  int64_t step_count() const { return static_cast<int64_t>(steps_.size()); }
  const ImageView& result() const { return steps_.back().out; }

  // seconds[i] grows by the time of step i unless it is null. Without threads of its own a chain shares torch's, which
  // spin for a while after torch's own work and would then stand in the way of others.
  void run(void* out, bool own_threads, double* seconds) {
    std::optional<TeamLease> lease;
    if (own_threads) lease.emplace(torch::stable::get_num_threads());
    char* arena = reinterpret_cast<char*>(arena_of_thread().floats(arena_bytes_ / 4));
    Interrupts interrupts;
    for (int64_t n = 0; n < input_.n; n += group_) {
      run_group(n, std::min(group_, input_.n - n), arena, out, seconds, interrupts);
    }
  }

 private:
  static Arena& arena_of_thread() {
    static thread_local Arena arena;
    return arena;
  }

  // A contiguous NCHW image may enter as it is.
  static ImageView view_input(const Tensor& t) {
    if (t.dim() == 4 && !is_dense_nhwc(t) && t.is_contiguous()) {
      STD_TORCH_CHECK(t.is_cpu(), "input must be a CPU tensor.");
      return {t.const_data_ptr(), storage_of(t, "input"), t.size(0), t.size(2), t.size(3), t.size(1), true};
    }
    return view_nhwc(t, "input");
  }

  static constexpr Storage kInside = StorageOf<E>::value;

  static ImageView widened(ImageView image) {
    image.storage = kInside;
    return image;
  }
  bool widens() const { return outside_.storage != kInside; }

  // As many images as fit with their largest value into a quarter of the last cache: weights want their part of it, and
  // fewer images would read them more often. Groups are as even as whole shares for the threads allow.
  int64_t group_size() const {
    const int64_t threads = torch::stable::get_num_threads();
    int64_t largest = 1;
    for (int64_t i = 0; i < step_count(); ++i) {
      if (!values_[i + 1].inside) largest = std::max(largest, steps_[i].image_elements());
    }
    const int64_t bytes = largest * storage_bytes(kInside);
    const int64_t fitting = std::max<int64_t>(cache_sizes().l3 / 4 / bytes / threads * threads, threads);
    const int64_t groups = std::max<int64_t>(1, ceil_div(input_.n, fitting));
    return std::min(input_.n, ceil_div(ceil_div(input_.n, groups), threads) * threads);
  }

  void note_uses() {
    values_.resize(steps_.size() + 1);
    values_.back().last_use = step_count();
    for (int64_t i = 0; i < step_count(); ++i) {
      const ChainStep<E>& step = steps_[i];
      values_[i + 1].born = i;
      values_[step.in].last_use = i, ++values_[step.in].uses;
      if (step.residual < 0) continue;
      values_[step.residual].last_use = i;
      if (step.residual != step.in) ++values_[step.residual].uses;
    }
  }

  // Steps whose values between them would leave the cache go together.
  void find_segments() {
    for (int64_t first = 0; first < step_count();) {
      Segment<E> segment{first, 1, std::nullopt};
      while (first + segment.count < step_count() && joins(first, first + segment.count)) ++segment.count;
      for (; segment.count > 1; --segment.count) {
        segment.bands.emplace(&steps_[first], segment.count);
        if (segment.bands->fits()) break;
      }
      for (int64_t i = 1; i < segment.count; ++i) values_[first + i].inside = true;
      values_[first + segment.count].born = first;  // written while the first step still reads
      first += segment.count;
      segments_.push_back(segment);
    }
  }

  bool joins(int64_t first, int64_t step) const {
    const bool alone = values_[step].uses == 1 && steps_[step].in == step;
    const bool adds_outside = steps_[step].residual >= 0 && steps_[step].residual != step;
    const int64_t bytes = steps_[step - 1].image_elements() * storage_bytes(kInside);
    return alone && !adds_outside && bytes > cache_sizes().l2 / 2 && DepthFirst<E>::supports(steps_[step]) &&
           (step > first + 1 || DepthFirst<E>::supports(steps_[first]));
  }

  // First fit among the values alive at the same time. The first and the last value are the caller's, unless they have
  // to be widened and narrowed.
  void place_values() {
    values_[0].bytes = bytes_of(input_.h * input_.w * input_.c);
    for (int64_t i = 0; i < step_count(); ++i) {
      if (!values_[i + 1].inside) values_[i + 1].bytes = bytes_of(steps_[i].image_elements());
    }
    for (int64_t i = widens() ? 0 : 1; i < step_count() + widens(); ++i) {
      values_[i].offset = free_offset(i);
      arena_bytes_ = std::max(arena_bytes_, values_[i].offset + values_[i].bytes);
    }
  }

  int64_t bytes_of(int64_t image_elements) const {
    return ceil_div(group_ * image_elements * storage_bytes(kInside), kAlignedBytes) * kAlignedBytes;
  }

  int64_t free_offset(int64_t index) const {
    const Value& wanted = values_[index];
    int64_t offset = 0;
    for (bool moved = true; moved;) {
      moved = false;
      for (int64_t j = widens() ? 0 : 1; j < index; ++j) {
        const Value& other = values_[j];
        const bool together = other.last_use >= wanted.born;
        if (together && offset < other.offset + other.bytes && other.offset < offset + wanted.bytes) {
          offset = other.offset + other.bytes;
          moved = true;
        }
      }
    }
    return offset;
  }

  void run_group(int64_t first, int64_t images, char* arena, void* out, double* seconds, Interrupts& interrupts) {
    const void* in = offset(outside_.data, outside_.storage, first * input_.h * input_.w * input_.c);
    void* result = offset(out, outside_.storage, first * steps_.back().image_elements());
    if (widens()) widen_input(in, images, arena + values_[0].offset);
    const auto data_of = [&](int64_t value) -> void* {
      if (value == 0 && !widens()) return const_cast<void*>(in);
      if (value == step_count() && !widens()) return result;
      return arena + values_[value].offset;
    };
    for (const Segment<E>& segment : segments_) {
      interrupts.check();
      const int64_t last = segment.first + segment.count;
      const ChainStep<E>& step = steps_[segment.first];
      const void* residual = step.residual < 0 ? nullptr : data_of(step.residual);
      run_segment(segment, data_of(step.in), images, residual, data_of(last), seconds);
    }
    if (widens()) narrow_output(arena + values_.back().offset, images, result);
  }

  void widen_input(const void* in, int64_t images, void* out) const {
    const int64_t row = input_.w * input_.c, rows = images * input_.h;
    const WidenKernel<E> widen = kernels_for<E>().widen[static_cast<int>(outside_.storage)];
    share_tasks(rows, [&](int64_t a, int64_t b) {
      widen(offset(in, outside_.storage, a * row), static_cast<E*>(out) + a * row, (b - a) * row);
    });
  }

  void narrow_output(const void* values, int64_t images, void* out) const {
    const ImageView& last = steps_.back().out;
    const FinishKernel<E> finish = kernels_for<E>().finish[static_cast<int>(outside_.storage)];
    share_tasks(images * last.h * last.w, [&](int64_t a, int64_t b) {
      FinishArgs<E> f{};
      f.in = static_cast<const E*>(values) + a * last.c, f.in_stride = last.c, f.in_block = kLanesOf<E>;
      f.out = offset(out, outside_.storage, a * last.c), f.out_stride = last.c;
      f.pixels = b - a, f.channels = last.c;
      finish(f);
    });
  }

  void run_segment(const Segment<E>& segment, const void* in, int64_t images, const void* residual, void* out,
                   double* seconds) {
    ChainStep<E>* steps = &steps_[segment.first];
    if (segment.count > 1) {
      set_images(steps[0], in, images, residual, nullptr);
      for (int64_t i = 1; i + 1 < segment.count; ++i) set_images(steps[i], nullptr, images, nullptr, nullptr);
      set_images(steps[segment.count - 1], nullptr, images, nullptr, out);
      return segment.bands->run(images, seconds ? seconds + segment.first : nullptr);
    }
    const auto start = std::chrono::steady_clock::now();
    set_images(steps[0], in, images, residual, out);
    run_step(steps[0]);
    if (!seconds) return;
    seconds[segment.first] += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }

  static void set_images(ChainStep<E>& step, const void* in, int64_t images, const void* residual, void* out) {
    if (auto* conv = std::get_if<Convolution<E>>(&step.work)) {
      conv->in.data = in, conv->in.n = images, conv->residual = residual, conv->out = out;
    } else if (auto* block = std::get_if<FusedBlock<E>>(&step.work)) {
      block->in.data = in, block->in.n = images, block->residual = residual, block->out = out;
    } else if (auto* pool = std::get_if<GlobalPool>(&step.work)) {
      pool->in.data = in, pool->in.n = images, pool->out = out;
    } else if (auto* norm = std::get_if<LayerNorm<E>>(&step.work)) {
      norm->in.data = in, norm->in.n = images, norm->out = out;
    } else if (auto* blur = std::get_if<BlurPool<E>>(&step.work)) {
      blur->in.data = in, blur->in.n = images, blur->beside = residual, blur->out = out;
    } else if (auto* next = std::get_if<ConvNextBlock<E>>(&step.work)) {
      next->conv.in.data = in, next->conv.in.n = images, next->residual = residual, next->out = out;
    }
  }

  static void run_step(const ChainStep<E>& step) {
    if (const auto* conv = std::get_if<Convolution<E>>(&step.work)) {
      conv->run(*conv);
    } else if (const auto* block = std::get_if<FusedBlock<E>>(&step.work)) {
      run_fused_block(*block);
    } else if (const auto* pool = std::get_if<GlobalPool>(&step.work)) {
      run_global_pool(*pool);
    } else if (const auto* norm = std::get_if<LayerNorm<E>>(&step.work)) {
      run_layer_norm(*norm);
    } else if (const auto* blur = std::get_if<BlurPool<E>>(&step.work)) {
      run_blur_pool(*blur);
    } else if (const auto* next = std::get_if<ConvNextBlock<E>>(&step.work)) {
      run_convnext_block(*next);
    }
  }

  ImageView outside_;  // the caller's input
  ImageView input_;    // the same in E
  std::vector<ChainStep<E>> steps_;
  std::vector<Value> values_;
  std::vector<Segment<E>> segments_;
  int64_t group_ = 1;
  int64_t arena_bytes_ = 0;
};

Tensor allocate(const Tensor& input, const ImageView& result, bool flat) {
  if (!flat) return empty_result(input, result.n, result.c, result.h, result.w);
  STD_TORCH_CHECK(result.h == 1 && result.w == 1, "flat must be false for a result of ", result.h, "x", result.w,
                  " pixels.");
  const int64_t sizes[] = {result.n, result.c}, strides[] = {result.c, 1};
  return empty_strided(sizes, strides, 2, dtype_of(input));
}

template <class E>
Tensor run_in(const Tensor& input, const Tensor& weights, const std::string& program, bool flat, bool own_threads) {
  Chain<E> chain(input, weights, program);
  Tensor out = allocate(input, chain.result(), flat);
  if (out.numel() > 0) chain.run(out.mutable_data_ptr(), own_threads, nullptr);
  return out;
}

template <class E>
std::tuple<Tensor, Tensor> profile_in(const Tensor& input, const Tensor& weights, const std::string& program, bool flat,
                                      bool own_threads) {
  Chain<E> chain(input, weights, program);
  Tensor out = allocate(input, chain.result(), flat);
  const int64_t steps = chain.step_count();
  const int64_t sizes[] = {steps}, strides[] = {1};
  Tensor times = empty_strided(sizes, strides, 1, aoti_torch_dtype_float64());
  double* seconds = static_cast<double*>(times.mutable_data_ptr());
  std::fill(seconds, seconds + steps, 0.0);
  if (out.numel() > 0) chain.run(out.mutable_data_ptr(), own_threads, seconds);
  return {out, times};
}

// The weights' dtype is that of the arithmetic.
bool computes_in_half(const Tensor& input, const Tensor& weights) {
  const Storage storage = storage_of(weights, "weights");
  STD_TORCH_CHECK(storage != Storage::kBFloat16, "weights must have dtype float32 or float16.");
  const bool half = storage == Storage::kFloat16;
  STD_TORCH_CHECK(!half || storage_of(input, "input") == Storage::kFloat16,
                  "input must have dtype float16 where weights have.");
  return half;
}

Tensor run_chain(const Tensor input, const Tensor weights, const std::string program, bool flat, bool own_threads) {
  const auto run = computes_in_half(input, weights) ? run_in<Half> : run_in<float>;
  return run(input, weights, program, flat, own_threads);
}

// The same, and the seconds of every step.
std::tuple<Tensor, Tensor> profile_chain(const Tensor input, const Tensor weights, const std::string program, bool flat,
                                         bool own_threads) {
  const auto run = computes_in_half(input, weights) ? profile_in<Half> : profile_in<float>;
  return run(input, weights, program, flat, own_threads);
}

STABLE_TORCH_LIBRARY_IMPL(convfirst, CPU, m) {
  m.impl("chain_packed", TORCH_BOX(&run_chain));
  m.impl("profile_chain_packed", TORCH_BOX(&profile_chain));
}

}  // namespace
}  // namespace convfirst
