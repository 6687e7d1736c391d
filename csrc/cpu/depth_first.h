// Takes images through several steps of a chain in bands of rows: of what lies between the steps only the rows exist
// that the next band still reads, in a buffer that stays in a thread's cache. A thread computes the rows above its
// share twice; within it every row is computed once.
#pragma once

#include <vector>

#include "chain_program.h"

namespace convfirst {

template <class E>
class DepthFirst {
 public:
  // Whether a step gives its output row by row: dense convolutions, and blocks that have no squeeze-excite and would
  // not rather keep an image's hidden tensor.
  static bool supports(const ChainStep<E>& step);

  // Consecutive supported steps; each but the first reads the one before it, and adds that or nothing. They stay where
  // they are.
  DepthFirst(const ChainStep<E>* steps, int64_t count);

  // Whether the smallest band fits.
  bool fits() const { return band_ > 0; }

  // The first step's input, the last one's output and what they add are set. seconds[i] grows by the time of step i
  // unless it is null.
  void run(int64_t images, double* seconds) const;

 private:
  const ChainStep<E>* steps_;
  int64_t count_;
  int64_t band_;  // output rows of the last step; 0: not even one fits
};

}  // namespace convfirst
