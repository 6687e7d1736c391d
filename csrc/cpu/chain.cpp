// Runs a chain of packed blocks in one call: one trip through the dispatcher, one team of threads, one arena for what
// lies between the blocks. The batch goes through the whole chain in groups of images whose activations fit the cache,
// so that neither the arena nor the time an image takes grows with the batch.
#include <algorithm>
#include <chrono>
#include <string>
#include <tuple>

#include "chain_program.h"
#include "parallel.h"

namespace convfirst {
namespace {

constexpr int64_t kAlignedBytes = 64;

struct Value {
  int64_t offset = 0, bytes = 0;  // in the arena
  int64_t born = 0, last_use = 0;
};

class Chain {
 public:
  Chain(const Tensor& input, const Tensor& weights, const std::string& program)
      : input_(view_input(input)), steps_(read_chain(input_, weights, program)) {
    group_ = group_size();
    place_values();
  }

  int64_t step_count() const { return static_cast<int64_t>(steps_.size()); }
  const ImageView& result() const { return steps_.back().out; }

  // seconds[i] grows by the time of step i unless it is null.
  void run(void* out, double* seconds) {
    const TeamLease lease(torch::stable::get_num_threads());
    char* arena = reinterpret_cast<char*>(arena_of_thread().floats(arena_bytes_ / 4));
    for (int64_t n = 0; n < input_.n; n += group_) run_group(n, std::min(group_, input_.n - n), arena, out, seconds);
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

  int64_t group_size() const {
    const int64_t threads = torch::stable::get_num_threads(), cached = cache_sizes().l3 / 2;
    int64_t most = 1;
    for (const ChainStep& step : steps_) {
      most = std::max(most, step.image_elements() * storage_bytes(input_.storage));
    }
    const int64_t fitting = std::max<int64_t>(cached / most / threads * threads, threads);
    return std::min(input_.n, fitting);
  }

  // First fit among the values alive at the same time; the last value is the output.
  void place_values() {
    values_.resize(steps_.size() + 1);
    for (int64_t i = 0; i < step_count(); ++i) {
      const ChainStep& step = steps_[i];
      values_[i + 1].born = i;
      values_[step.in].last_use = i;
      if (step.residual >= 0) values_[step.residual].last_use = i;
      const int64_t bytes = group_ * step.image_elements() * storage_bytes(input_.storage);
      values_[i + 1].bytes = ceil_div(bytes, kAlignedBytes) * kAlignedBytes;
    }
    for (int64_t i = 1; i < step_count(); ++i) {
      values_[i].offset = free_offset(i);
      arena_bytes_ = std::max(arena_bytes_, values_[i].offset + values_[i].bytes);
    }
  }

  int64_t free_offset(int64_t index) const {
    const Value& wanted = values_[index];
    int64_t offset = 0;
    for (bool moved = true; moved;) {
      moved = false;
      for (int64_t j = 1; j < index; ++j) {
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

  void run_group(int64_t first, int64_t images, char* arena, void* out, double* seconds) {
    const auto data_of = [&](int64_t value) -> void* {
      if (value == 0) {
        const int64_t skipped = first * input_.h * input_.w * input_.c;
        return const_cast<void*>(offset(input_.data, input_.storage, skipped));
      }
      if (value == step_count()) return offset(out, input_.storage, first * steps_.back().image_elements());
      return arena + values_[value].offset;
    };
    for (int64_t i = 0; i < step_count(); ++i) {
      const auto start = std::chrono::steady_clock::now();
      ChainStep& step = steps_[i];
      const void* residual = step.residual < 0 ? nullptr : data_of(step.residual);
      run_step(step, data_of(step.in), images, residual, data_of(i + 1));
      if (seconds) seconds[i] += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    }
  }

  static void run_step(ChainStep& step, const void* in, int64_t images, const void* residual, void* out) {
    if (auto* conv = std::get_if<Convolution>(&step.work)) {
      conv->in.data = in, conv->in.n = images, conv->residual = residual, conv->out = out;
      conv->run(*conv);
    } else if (auto* block = std::get_if<FusedBlock>(&step.work)) {
      block->in.data = in, block->in.n = images, block->residual = residual, block->out = out;
      run_fused_block(*block);
    } else if (auto* pool = std::get_if<GlobalPool>(&step.work)) {
      pool->in.data = in, pool->in.n = images, pool->out = out;
      run_global_pool(*pool);
    } else if (auto* norm = std::get_if<LayerNorm>(&step.work)) {
      norm->in.data = in, norm->in.n = images, norm->out = out;
      run_layer_norm(*norm);
    } else if (auto* next = std::get_if<ConvNextBlock>(&step.work)) {
      next->conv.in.data = in, next->conv.in.n = images, next->residual = residual, next->out = out;
      run_convnext_block(*next);
    }
  }

  ImageView input_;
  std::vector<ChainStep> steps_;
  std::vector<Value> values_;
  int64_t group_ = 1;
  int64_t arena_bytes_ = 0;
};

Tensor allocate(const Tensor& input, const ImageView& result, bool flat) {
  if (!flat) return empty_nhwc(input, result.n, result.c, result.h, result.w);
  STD_TORCH_CHECK(result.h == 1 && result.w == 1, "flat must be false for a result of ", result.h, "x", result.w,
                  " pixels.");
  int32_t dtype;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(input.get(), &dtype));
  const int64_t sizes[] = {result.n, result.c}, strides[] = {result.c, 1};
  return empty_strided(sizes, strides, 2, dtype);
}

Tensor run_chain(const Tensor input, const Tensor weights, const std::string program, bool flat) {
  Chain chain(input, weights, program);
  Tensor out = allocate(input, chain.result(), flat);
  if (out.numel() > 0) chain.run(out.mutable_data_ptr(), nullptr);
  return out;
}

// The same, and the seconds of every step.
std::tuple<Tensor, Tensor> profile_chain(const Tensor input, const Tensor weights, const std::string program,
                                         bool flat) {
  Chain chain(input, weights, program);
  Tensor out = allocate(input, chain.result(), flat);
  const int64_t steps = chain.step_count();
  const int64_t sizes[] = {steps}, strides[] = {1};
  Tensor times = empty_strided(sizes, strides, 1, aoti_torch_dtype_float64());
  double* seconds = static_cast<double*>(times.mutable_data_ptr());
  std::fill(seconds, seconds + steps, 0.0);
  if (out.numel() > 0) chain.run(out.mutable_data_ptr(), seconds);
  return {out, times};
}

STABLE_TORCH_LIBRARY_IMPL(convfirst, CPU, m) {
  m.impl("chain_packed", TORCH_BOX(&run_chain));
  m.impl("profile_chain_packed", TORCH_BOX(&profile_chain));
}

}  // namespace
}  // namespace convfirst
