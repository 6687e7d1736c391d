// Runs of outputs with the same taps: bounds are computed once an output, outside every inner loop.
#include "axis_runs.h"

#include <algorithm>
#include <numeric>

namespace convfirst {
namespace {

int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b != 0 && (a < 0) != (b < 0)); }
int64_t ceil_of(int64_t a, int64_t b) { return -floor_div(-a, b); }

// Appends one output, to the last run where that goes on with it.
void append(std::vector<AxisRun>& runs, const AxisRun& single) {
  if (!runs.empty()) {
    AxisRun& last = runs.back();
    const bool follows = single.out == last.out + last.count * last.out_step;
    const bool alike = single.taps == last.taps && (single.taps == 0 || single.kernel == last.kernel);
    if (follows && alike) {
      ++last.count;
      return;
    }
  }
  runs.push_back(single);
}

}  // namespace

// Input pixel o * stride - before + k * dilation.
std::vector<AxisRun> convolution_runs(const Axis& axis) {
  std::vector<AxisRun> runs;
  for (int64_t o = 0; o < axis.out; ++o) {
    const int64_t start = o * axis.stride - axis.before;
    const int64_t first = std::clamp<int64_t>(ceil_of(-start, axis.dilation), 0, axis.kernel);
    const int64_t end = std::clamp<int64_t>(ceil_of(axis.in - start, axis.dilation), first, axis.kernel);
    append(runs, {o, 1, 1, end - first, first, 1, start + first * axis.dilation, axis.dilation, axis.stride});
  }
  return runs;
}

// Input pixel (o + before - k * dilation) / stride where that is a whole number: for every stride phase of o the
// elements k, k + step, ... Descending k gives ascending pixels.
std::vector<AxisRun> transposed_runs(const Axis& axis) {
  std::vector<AxisRun> runs;
  const int64_t common = std::gcd(axis.stride, axis.dilation), step = axis.stride / common;
  for (int64_t phase = 0; phase < std::min(axis.stride, axis.out); ++phase) {
    int64_t residue = 0;  // the least k that meets this phase
    while (residue < step && (phase + axis.before - residue * axis.dilation) % axis.stride != 0) ++residue;
    std::vector<AxisRun> of_phase;
    for (int64_t o = phase; o < axis.out; o += axis.stride) {
      const int64_t reach = o + axis.before;  // pixel 0 is met by k = reach / dilation
      const int64_t most = std::min(axis.kernel - 1, floor_div(reach, axis.dilation));
      const int64_t least = std::max<int64_t>(0, ceil_of(reach - (axis.in - 1) * axis.stride, axis.dilation));
      const int64_t first = least + (residue - least % step + step) % step;
      const int64_t taps = residue == step || first > most ? 0 : (most - first) / step + 1;
      const int64_t last = first + std::max<int64_t>(taps - 1, 0) * step;
      const int64_t in = taps ? (reach - last * axis.dilation) / axis.stride : 0;
      append(of_phase, {o, axis.stride, 1, taps, last, -step, in, axis.dilation / common, 1});
    }
    runs.insert(runs.end(), of_phase.begin(), of_phase.end());
  }
  return runs;
}

AxisLines::AxisLines(const std::vector<AxisRun>& runs, int64_t in, int64_t out)
    : runs_(runs), in_(in), lines_(static_cast<size_t>(out)) {
  for (size_t r = 0; r < runs.size(); ++r) {
    for (int64_t i = 0; i < runs[r].count; ++i) {
      lines_[runs[r].out + i * runs[r].out_step] = {static_cast<int64_t>(r), i};
    }
  }
}

AxisLines::Reach AxisLines::reach(int64_t begin, int64_t end) const {
  Reach reach{in_, 0};
  for (int64_t o = begin; o < end; ++o) {
    const AxisRun& run = runs_[lines_[o].run];
    if (!run.taps) continue;
    reach.first = std::min(reach.first, run.input(lines_[o].index, 0));
    reach.end = std::max(reach.end, run.input(lines_[o].index, run.taps - 1) + 1);
  }
  return {std::min(reach.first, reach.end), reach.end};
}

int64_t AxisLines::band(int64_t most) const {
  const int64_t outputs = static_cast<int64_t>(lines_.size());
  int64_t band = 1;
  while (band < outputs && reach(0, std::min(outputs, 2 * band)).count() <= most) band *= 2;
  return std::min(band, outputs);
}

int64_t AxisLines::most_reached(int64_t band) const {
  const int64_t outputs = static_cast<int64_t>(lines_.size());
  int64_t most = 0;
  for (int64_t o = 0; o < outputs; o += band) most = std::max(most, reach(o, std::min(outputs, o + band)).count());
  return most;
}

}  // namespace convfirst
