// Which kernel taps meet which input pixels along one axis, so that no product with a padded or inserted zero is ever
// made (C-K-S, arXiv 2306.15951: ConvV2 trims the filter, KS-deconv splits it by stride phase).
#pragma once

#include <cstdint>
#include <vector>

namespace convfirst {

// One axis of a convolution or of a transposed convolution.
struct Axis {
  int64_t in, out;  // pixels
  int64_t kernel, stride, dilation;
  int64_t before;  // padding in front; of a transposed convolution: outputs cut off there
};

// Outputs that see the same taps: out, out + out_step, ... Tap t multiplies kernel element kernel + t * kernel_step
// with input pixel in + t * tap_step, and the next output's input lies in_step further.
struct AxisRun {
  int64_t out, out_step, count;
  int64_t taps;
  int64_t kernel, kernel_step;
  int64_t in, tap_step, in_step;

  int64_t input(int64_t index, int64_t tap) const { return in + index * in_step + tap * tap_step; }
  int64_t element(int64_t tap) const { return kernel + tap * kernel_step; }
};

// Every output belongs to exactly one run; taps come by ascending input pixel. A run without taps sees no input.
std::vector<AxisRun> convolution_runs(const Axis& axis);
std::vector<AxisRun> transposed_runs(const Axis& axis);

// The outputs of an axis in order, for drivers that take bands of them.
class AxisLines {
 public:
  AxisLines(const std::vector<AxisRun>& runs, int64_t in, int64_t out);

  struct Line {
    int64_t run = 0, index = 0;
  };
  const Line& operator[](int64_t output) const { return lines_[output]; }

  // Input pixels [first, end) that outputs [begin, end) see.
  struct Reach {
    int64_t first, end;
    int64_t count() const { return end - first; }
  };
  Reach reach(int64_t begin, int64_t end) const;

  // The largest power of two of outputs, or all, whose reach at the start of the axis is at most `most` pixels.
  int64_t band(int64_t most) const;
  // The largest reach of such bands along the axis.
  int64_t most_reached(int64_t band) const;

 private:
  const std::vector<AxisRun>& runs_;
  int64_t in_;
  std::vector<Line> lines_;
};

}  // namespace convfirst
