// How a call ends that was interrupted, and the door through which the Python side leaves its function.
#include "interrupts.h"

#include <stdexcept>

namespace convfirst {

void Interrupts::end_call() { throw std::runtime_error("interrupted by a signal"); }

}  // namespace convfirst

extern "C" __attribute__((visibility("default"))) std::atomic<convfirst::InterruptPoll>* convfirst_interrupt_poll() {
  return &convfirst::interrupt_poll();
}
