// Bands of rows through consecutive steps, see depth_first.h.
#include "depth_first.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <type_traits>

#include "parallel.h"
#include "strip.h"

namespace convfirst {
namespace {

// More rows would only take more of the cache.
constexpr int64_t kMostBandRows = 16;

struct Rows {
  int64_t begin, end;
};

Rows rows_read(const Window& w, Rows out, int64_t in_h) {
  const int64_t begin = std::clamp<int64_t>(out.begin * w.stride_h - w.top, 0, in_h);
  return {begin, std::clamp<int64_t>((out.end - 1) * w.stride_h - w.top + w.span_h(), begin, in_h)};
}

// Calls body with the convolution or the block that a supported step is.
template <class Step, class Body>
decltype(auto) with_work(Step& step, const Body& body) {
  using E = typename std::remove_const_t<Step>::Element;
  auto* conv = std::get_if<Convolution<E>>(&step.work);
  return conv ? body(*conv) : body(std::get<FusedBlock<E>>(step.work));
}

template <class E>
const Window& window_of(const ChainStep<E>& step) {
  return with_work(step, [](const auto& work) -> const Window& { return work.window; });
}

template <class E>
int64_t input_height(const ChainStep<E>& step) {
  return with_work(step, [](const auto& work) { return work.in.h; });
}

template <class E>
BlockPlan strips_of(const FusedBlock<E>& block) {
  return plan_strips(block.shape(), cache_sizes());
}

// The first element that a whole batch would have if the element at `row` of image n were at `at`. It may lie outside
// any memory; only rows that exist are reached from it.
template <class E>
void* batch_start(E* at, int64_t rows, int64_t row_elements) {
  return reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(at) -
                                 static_cast<uintptr_t>(rows * row_elements) * sizeof(E));
}

// One step on one thread, and the rows of its output that are still wanted.
template <class E>
class Stage {
 public:
  explicit Stage(const ChainStep<E>& step) : step_(step), row_elements_(step.out.w * step.out.c) {
    auto* block = std::get_if<FusedBlock<E>>(&step_.work);
    if (block) strip_ = std::make_unique<Strip<E>>(*block, strips_of(*block));
  }
  Stage(const Stage&) = delete;
  Stage& operator=(const Stage&) = delete;

  int64_t strip_floats(int64_t rows) const { return strip_ ? strip_->scratch_floats(rows) : 0; }
  int64_t buffer_floats(int64_t rows) const { return ceil_div(floats_for<E>(rows * row_elements_), kLanes) * kLanes; }
  Rows reads(Rows out) const { return rows_read(window_of(step_), out, input_height(step_)); }

  void begin(float* buffer, float* strip_scratch, int64_t rows) {
    buffer_ = reinterpret_cast<E*>(buffer);
    if (strip_) strip_->begin(strip_scratch, rows);
  }
  void begin_image() { done_ = base_ = 0; }

  // Keeps what is computed of these rows at the buffer's start and has the others written behind it.
  void slide_to(int64_t image, Rows rows) {
    const int64_t kept = std::max<int64_t>(0, done_ - rows.begin);
    if (kept > 0 && rows.begin > base_) {
      std::memmove(buffer_, buffer_ + (rows.begin - base_) * row_elements_,
                   static_cast<size_t>(kept * row_elements_) * sizeof(E));
    }
    base_ = rows.begin;
    void* start = batch_start(buffer_, image * step_.out.h + base_, row_elements_);
    with_work(step_, [&](auto& work) { work.out = start, work.out_is_scratch = true; });
  }

  void read_from(const Stage& before) {
    const void* data = with_work(before.step_, [](const auto& work) -> const void* { return work.out; });
    with_work(step_, [&](auto& work) {
      work.in.data = data;
      if (step_.residual >= 0) work.residual = data;
    });
  }

  void compute_until(int64_t image, Rows rows) {
    const int64_t first = std::max(done_, rows.begin);
    if (first < rows.end) {
      if (strip_) {
        strip_->project(image, first, rows.end, nullptr);
      } else {
        run_direct_rows(std::get<Convolution<E>>(step_.work), image, first, rows.end);
      }
    }
    done_ = std::max(done_, rows.end);
  }

 private:
  ChainStep<E> step_;
  std::unique_ptr<Strip<E>> strip_;
  const int64_t row_elements_;
  E* buffer_ = nullptr;
  int64_t base_ = 0;  // the row at the buffer's start
  int64_t done_ = 0;  // rows below this were computed
};

template <class E>
std::vector<std::unique_ptr<Stage<E>>> stages_of(const ChainStep<E>* steps, int64_t count) {
  std::vector<std::unique_ptr<Stage<E>>> stages;
  for (int64_t i = 0; i < count; ++i) stages.push_back(std::make_unique<Stage<E>>(steps[i]));
  return stages;
}

// Rows of every step's output that a band needs at most.
template <class E>
std::vector<int64_t> rows_held(const ChainStep<E>* steps, int64_t count, int64_t band) {
  std::vector<int64_t> rows(static_cast<size_t>(count), band);
  for (int64_t i = count - 1; i > 0; --i) {
    const Window& w = window_of(steps[i]);
    rows[i - 1] = std::min((rows[i] - 1) * w.stride_h + w.span_h(), steps[i - 1].out.h);
  }
  return rows;
}

// All steps on one thread.
template <class E>
class Worker {
 public:
  Worker(const ChainStep<E>* steps, int64_t count, int64_t band, double* seconds)
      : band_(band), seconds_(seconds), wanted_(static_cast<size_t>(count)), stages_(stages_of(steps, count)) {
    const std::vector<int64_t> rows = rows_held(steps, count, band);
    std::vector<int64_t> buffers(static_cast<size_t>(count), 0);  // the last step writes where its caller wants
    int64_t floats = 0;
    for (int64_t i = 0; i < count; ++i) {
      if (i + 1 < count) buffers[i] = stages_[i]->buffer_floats(rows[i]);
      floats += buffers[i] + stages_[i]->strip_floats(rows[i]);
    }
    float* scratch = band_arena().floats(floats);
    for (int64_t i = 0; i < count; ++i) {
      stages_[i]->begin(scratch, scratch + buffers[i], rows[i]);
      scratch += buffers[i] + stages_[i]->strip_floats(rows[i]);
    }
  }

  // Output rows [y0, y1) of an image.
  void run(int64_t image, int64_t y0, int64_t y1) {
    for (auto& stage : stages_) stage->begin_image();
    for (int64_t y = y0; y < y1; y += band_) advance(image, {y, std::min(y1, y + band_)});
  }

 private:
  // Steps keep their own scratch apart from that of the drivers they call.
  static Arena& band_arena() {
    static thread_local Arena arena;
    return arena;
  }

  void advance(int64_t image, Rows out) {
    wanted_.back() = out;
    for (size_t i = stages_.size() - 1; i > 0; --i) wanted_[i - 1] = stages_[i]->reads(wanted_[i]);
    for (size_t i = 0; i < stages_.size(); ++i) {
      const auto start = std::chrono::steady_clock::now();
      if (i + 1 < stages_.size()) stages_[i]->slide_to(image, wanted_[i]);
      if (i > 0) stages_[i]->read_from(*stages_[i - 1]);
      stages_[i]->compute_until(image, wanted_[i]);
      if (seconds_) seconds_[i] += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    }
  }

  const int64_t band_;
  double* const seconds_;
  std::vector<Rows> wanted_;
  std::vector<std::unique_ptr<Stage<E>>> stages_;
};

}  // namespace

template <class E>
bool DepthFirst<E>::supports(const ChainStep<E>& step) {
  if (const auto* conv = std::get_if<Convolution<E>>(&step.work)) {
    return conv->run == &run_direct<E> && !conv->window.is_pointwise();
  }
  const auto* block = std::get_if<FusedBlock<E>>(&step.work);
  return block && !block->se.reduce_weights && !plan_block(block->shape(), cache_sizes(), thread_count()).keeps_hidden;
}

template <class E>
DepthFirst<E>::DepthFirst(const ChainStep<E>* steps, int64_t count) : steps_(steps), count_(count), band_(0) {
  const auto stages = stages_of(steps, count);
  for (int64_t band = std::min(kMostBandRows, steps[count - 1].out.h); band > 0 && band_ == 0; --band) {
    const std::vector<int64_t> rows = rows_held(steps, count, band);
    int64_t floats = 0;
    for (int64_t i = 0; i < count; ++i) floats += stages[i]->strip_floats(rows[i]) + stages[i]->buffer_floats(rows[i]);
    if (4 * floats <= cache_sizes().l2 / 2) band_ = band;
  }
}

template <class E>
void DepthFirst<E>::run(int64_t images, double* seconds) const {
  const int64_t height = steps_[count_ - 1].out.h;
  std::vector<double> shares(static_cast<size_t>(count_), 0.0);
  const auto start = std::chrono::steady_clock::now();
  share_tasks(images * height, [&](int64_t first, int64_t last) {
    Worker<E> worker(steps_, count_, band_, seconds && first == 0 ? shares.data() : nullptr);
    for (int64_t row = first; row < last;) {
      const int64_t image = row / height, y0 = row % height, y1 = std::min(height, y0 + (last - row));
      worker.run(image, y0, y1);
      row += y1 - y0;
    }
  });
  if (!seconds) return;
  // One thread's shares stand for all.
  const double total = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  double counted = 0.0;
  for (double share : shares) counted += share;
  for (int64_t i = 0; i < count_; ++i) seconds[i] += total * shares[i] / counted;
}

template class DepthFirst<float>;
template class DepthFirst<Half>;

}  // namespace convfirst
