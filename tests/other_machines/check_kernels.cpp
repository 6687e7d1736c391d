// Runs every microkernel against its scalar reference, on integers that the arithmetic holds exactly, and prints the
// errors and some tile plans: for machines where nothing but a C++ library is at hand.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "cpu/microkernels/inspect.h"
#include "tiling/block_plan.h"
#include "tiling/conv_plan.h"

namespace {

// "kernel ISA NAME ERROR" of the worst seed; false where one is not exact.
bool check_kernels(int seeds) {
  const convfirst::KernelInspector& kernels = *convfirst_kernel_inspector();
  bool exact = true;
  for (int isa = 0; isa < kernels.isa_count; ++isa) {
    if (!kernels.isa_available(isa)) continue;
    for (int kernel = 0; kernel < kernels.kernel_count(); ++kernel) {
      if (!kernels.kernel_exists(isa, kernel)) continue;
      double worst = 0;
      for (int seed = 0; seed < seeds; ++seed) {
        const double error = kernels.check(isa, kernel, static_cast<uint64_t>(seed));
        if (!(error <= worst)) worst = error;
      }
      std::printf("kernel %s %s %g\n", kernels.isa_name(isa), kernels.kernel_name(kernel), worst);
      exact = exact && worst == 0;
    }
  }
  return exact;
}

// "block SIZE CHANNELS STRIDE THREADS ORDER ROW_GROUP STRIP_ROWS HIDDEN_CHANNELS" of inverted residuals, and
// "bands SIZE CHANNELS STRIDE THREADS BAND_ROWS" of their convolutions, with a window of three rows.
void print_plans() {
  for (int64_t size : {7, 28, 112}) {
    for (int64_t channels : {16, 96}) {
      for (int64_t stride : {1, 2}) {
        for (int64_t threads : {1, 4}) {
          const int64_t out = (size - 1) / stride + 1, hidden = 6 * channels;
          convfirst::BlockShape block{};
          block.images = 1, block.taps = 9, block.in_h = block.in_w = size, block.in_c = block.out_c = channels;
          block.hidden = hidden, block.out_h = block.out_w = out, block.span_h = 3, block.stride_h = stride;
          block.padded_w = size + 2, block.expands = true;
          const convfirst::BlockPlan plan = convfirst::plan_block(block, convfirst::cache_sizes(), threads);
          std::printf("block %d %d %d %d %s %d %d %d\n", int(size), int(channels), int(stride), int(threads),
                      plan.keeps_hidden ? "kept" : "strips", int(plan.row_group), int(plan.strip_rows),
                      int(plan.hidden_blocks * 16));
          convfirst::ConvShape conv{};
          conv.images = 1, conv.in_h = conv.in_w = size, conv.in_c = conv.out_c = channels;
          conv.out_h = conv.out_w = out, conv.span_h = 3, conv.stride_h = stride;
          conv.padded_w = (out - 1) * stride + 3;
          std::printf("bands %d %d %d %d %d\n", int(size), int(channels), int(stride), int(threads),
                      int(convfirst::plan_bands(conv, convfirst::cache_sizes(), threads).band_rows));
        }
      }
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const bool exact = check_kernels(argc > 1 ? std::atoi(argv[1]) : 1);
  print_plans();
  return exact ? 0 : 1;
}
