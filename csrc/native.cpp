// The pybind11 module _native: facts about the CPU, the microkernels and the tile planner, and how a signal ends a long
// call. Tensors never pass here.
#include <dlfcn.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cpu/interrupts.h"
#include "cpu/microkernels/inspect.h"
#include "tiling/block_plan.h"
#include "tiling/cache_simulation.h"
#include "tiling/conv_plan.h"
#include "tiling/forced_tiles.h"

namespace py = pybind11;

namespace {

const convfirst::KernelInspector* inspector = nullptr;
convfirst::ForcedTiles* operators_tiles = nullptr;  // those of the operators' library, not of this one

unsigned long main_thread = 0;
PyObject* interrupting_error = nullptr;

// Runs Python's handlers of signals that came during a call without Python's lock. They run in the main thread only,
// so that other threads need not wait for the lock.
bool is_interrupted() {
  if (PyThread_get_thread_ident() != main_thread) return false;
  const py::gil_scoped_acquire lock;
  if (PyErr_CheckSignals() == 0) return false;
  const py::error_already_set raised;
  Py_XDECREF(interrupting_error);
  interrupting_error = py::object(raised.value()).release().ptr();
  return true;
}

// What the handler raised that ended a call, None where none has since the last question.
py::object take_interrupt() {
  if (!interrupting_error) return py::none();
  return py::reinterpret_steal<py::object>(std::exchange(interrupting_error, nullptr));
}

// The operator library is already in the process: its kernels are looked up there, not built a second time.
void attach(const std::string& library) {
  void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) throw std::runtime_error("library '" + library + "' cannot be opened: " + dlerror());
  using Door = const convfirst::KernelInspector* (*)();
  const Door door = reinterpret_cast<Door>(dlsym(handle, "convfirst_kernel_inspector"));
  if (!door) throw std::runtime_error("library '" + library + "' has no convfirst_kernel_inspector.");
  inspector = door();
  using TilesDoor = convfirst::ForcedTiles* (*)();
  const TilesDoor tiles_door = reinterpret_cast<TilesDoor>(dlsym(handle, "convfirst_forced_tiles"));
  operators_tiles = tiles_door ? tiles_door() : nullptr;
  using PollDoor = std::atomic<convfirst::InterruptPoll>* (*)();
  const PollDoor poll_door = reinterpret_cast<PollDoor>(dlsym(handle, "convfirst_interrupt_poll"));
  if (!poll_door) return;
  main_thread = py::module_::import("threading").attr("main_thread")().attr("ident").cast<unsigned long>();
  poll_door()->store(&is_interrupted);
}

const convfirst::KernelInspector& attached() {
  if (!inspector) throw std::runtime_error("attach() must be called with the operator library first.");
  return *inspector;
}

int isa_index(const std::string& isa) {
  const auto& kernels = attached();
  for (int i = 0; i < kernels.isa_count; ++i) {
    if (isa == kernels.isa_name(i) && kernels.isa_available(i)) return i;
  }
  throw py::value_error("isa must be one that cpu_info() lists as available, but is '" + isa + "'.");
}

int kernel_index(int isa, const std::string& name) {
  const auto& kernels = attached();
  for (int i = 0; i < kernels.kernel_count(); ++i) {
    if (name == kernels.kernel_name(i) && kernels.kernel_exists(isa, i)) return i;
  }
  throw py::value_error("name must be one that list_microkernels() gives, but is '" + name + "'.");
}

py::dict cpu_info() {
  const auto& kernels = attached();
  std::vector<std::string> known, available;
  for (int i = 0; i < kernels.isa_count; ++i) {
    known.push_back(kernels.isa_name(i));
    if (kernels.isa_available(i)) available.push_back(kernels.isa_name(i));
  }
  const convfirst::CacheSizes& caches = convfirst::cache_sizes();
  py::dict info;
  info["isa"] = kernels.isa_in_use();
  info["available"] = available;
  info["known"] = known;
  info["multiplies_half"] = kernels.multiplies_half();
  info["l1_bytes"] = caches.l1;
  info["l2_bytes"] = caches.l2;
  info["l3_bytes"] = caches.l3;
  return info;
}

std::vector<std::string> list_microkernels(const std::string& isa) {
  const int index = isa_index(isa);
  std::vector<std::string> names;
  for (int i = 0; i < attached().kernel_count(); ++i) {
    if (attached().kernel_exists(index, i)) names.push_back(attached().kernel_name(i));
  }
  return names;
}

double check_microkernel(const std::string& isa, const std::string& name, uint64_t seed) {
  const int index = isa_index(isa);
  return attached().check(index, kernel_index(index, name), seed);
}

py::dict time_microkernel(const std::string& isa, const std::string& name, double seconds) {
  const int index = isa_index(isa);
  const int kernel = kernel_index(index, name);
  convfirst::KernelTiming timing;
  {
    py::gil_scoped_release release;
    timing = attached().time(index, kernel, seconds);
  }
  py::dict result;
  result["ns_per_call"] = timing.nanoseconds;
  result["flops_per_call"] = timing.flops;
  result["bytes_per_call"] = timing.bytes;
  return result;
}

double time_activation(const std::string& isa, int activation, double seconds) {
  constexpr int kActivations = 9;  // of enum Activation
  if (activation < 0 || activation >= kActivations) {
    throw py::value_error("activation must be 0 to 8, but is " + std::to_string(activation) + ".");
  }
  const int index = isa_index(isa);
  py::gil_scoped_release release;
  return attached().time_activation(index, activation, seconds);
}

// A call lasts at least this long, so that reading the clock takes no part of it.
constexpr double kCopyBatchSeconds = 2e-5;

double seconds_of_copies(char* target, const char* source, size_t bytes, int64_t copies) {
  const auto begin = std::chrono::steady_clock::now();
  for (int64_t i = 0; i < copies; ++i) {
    std::memcpy(target, source, bytes);
    asm volatile("" : : "r"(target) : "memory");  // else copies that nobody reads could be left out
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() / static_cast<double>(copies);
}

// Bytes a second, read and written, of a copy whose source and target are `working_set` bytes together. Of all batches
// in `seconds` the one that a tenth outran: the very fastest may have had the shared caches to itself.
double time_copy(int64_t working_set, double seconds) {
  const int64_t bytes = working_set / 2;
  if (bytes < 1)
    throw py::value_error("working_set must be at least 2 bytes, but is " + std::to_string(working_set) + ".");
  py::gil_scoped_release release;
  std::vector<char> source(bytes, 1), target(bytes, 0);
  const double once = seconds_of_copies(target.data(), source.data(), bytes, 1);
  const int64_t copies = 1 + static_cast<int64_t>(kCopyBatchSeconds / std::max(once, 1e-9));
  std::vector<double> batches;
  const auto begin = std::chrono::steady_clock::now();
  do {
    batches.push_back(seconds_of_copies(target.data(), source.data(), bytes, copies));
  } while (std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() < seconds);
  std::nth_element(batches.begin(), batches.begin() + batches.size() / 10, batches.end());
  return 2.0 * static_cast<double>(bytes) / batches[batches.size() / 10];
}

py::dict plan_tiles(int64_t in_h, int64_t in_w, int64_t in_channels, int64_t hidden_channels, int64_t out_channels,
                    int64_t kernel, int64_t stride, bool expands, bool squeezes, int64_t images, int64_t threads) {
  const int64_t pad = kernel / 2;
  convfirst::BlockShape shape{};
  shape.images = images, shape.in_h = in_h, shape.taps = kernel * kernel;
  shape.in_w = in_w, shape.in_c = in_channels, shape.hidden = hidden_channels, shape.out_c = out_channels;
  shape.out_h = (in_h + 2 * pad - kernel) / stride + 1, shape.out_w = (in_w + 2 * pad - kernel) / stride + 1;
  shape.span_h = kernel, shape.stride_h = stride, shape.padded_w = in_w + 2 * pad;
  shape.expands = expands, shape.squeezes = squeezes;
  const convfirst::BlockPlan plan = convfirst::plan_block(shape, convfirst::cache_sizes(), threads);
  py::dict result;
  result["order"] = plan.keeps_hidden ? "kept" : squeezes ? "strips, twice" : "strips";
  result["row_group"] = plan.row_group;
  result["strip_rows"] = plan.strip_rows;
  result["hidden_channels"] = plan.hidden_blocks * 16;
  return result;
}

py::dict plan_conv_tiles(int64_t in_h, int64_t in_w, int64_t in_channels, int64_t out_channels, int64_t kernel,
                         int64_t stride, bool depthwise, int64_t images, int64_t threads, int64_t l2_bytes) {
  const int64_t pad = kernel / 2;
  convfirst::ConvShape shape{};
  shape.images = images, shape.in_h = in_h, shape.in_w = in_w, shape.in_c = in_channels, shape.out_c = out_channels;
  shape.out_h = (in_h + 2 * pad - kernel) / stride + 1, shape.out_w = (in_w + 2 * pad - kernel) / stride + 1;
  shape.span_h = kernel, shape.stride_h = stride, shape.padded_w = (shape.out_w - 1) * stride + kernel;
  convfirst::CacheSizes caches = convfirst::cache_sizes();
  if (l2_bytes) caches.l2 = l2_bytes;
  py::dict result;
  if (depthwise) {
    result["band_rows"] = convfirst::plan_bands(shape, caches, threads).band_rows;
    return result;
  }
  if (kernel != 1) throw py::value_error("kernel must be 1 unless depthwise, but is " + std::to_string(kernel) + ".");
  const int64_t blocks = (out_channels + shape.lanes - 1) / shape.lanes;
  const convfirst::PointwisePlan plan = convfirst::plan_pointwise(shape, blocks, caches.l2, caches, threads);
  result["run_pixels"] = plan.run_pixels;
  result["parts"] = plan.parts;
  return result;
}

// Bytes that a trace of [address, bytes, whether written] moves behind a cache; of what is left in it only lines of
// [kept_from, kept_from + kept_bytes), the results, count as written.
py::dict simulate_cache(const std::vector<std::array<int64_t, 3>>& trace, int64_t bytes, int64_t ways,
                        int64_t kept_from, int64_t kept_bytes) {
  if (bytes < ways * convfirst::CacheSimulation::kLineBytes || ways < 1) {
    throw py::value_error("bytes must hold at least a line of every way, but are " + std::to_string(bytes) + ".");
  }
  convfirst::CacheSimulation cache(bytes, ways);
  {
    py::gil_scoped_release release;
    for (const auto& [address, size, writes] : trace) cache.access(address, size, writes != 0);
    cache.flush(kept_from, kept_bytes);
  }
  py::dict result;
  result["read"] = cache.lines_read() * convfirst::CacheSimulation::kLineBytes;
  result["written"] = cache.lines_written() * convfirst::CacheSimulation::kLineBytes;
  result["write_missed"] = cache.lines_write_missed() * convfirst::CacheSimulation::kLineBytes;
  return result;
}

// For sweeps: the operators take these tiles instead of their planners'; 0 gives the choice back.
void force_tiles(int64_t run_pixels, int64_t parts, int64_t band_rows, int64_t keeps_hidden, int64_t row_group,
                 int64_t hidden_blocks, int64_t streams) {
  for (convfirst::ForcedTiles* tiles : {operators_tiles, &convfirst::forced_tiles()}) {
    if (!tiles) throw std::runtime_error("attach() must be called with an operator library that takes tiles first.");
    tiles->run_pixels = run_pixels, tiles->parts = parts, tiles->band_rows = band_rows,
    tiles->keeps_hidden = keeps_hidden;
    tiles->row_group = row_group, tiles->hidden_blocks = hidden_blocks, tiles->streams = streams;
  }
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "Facts about this CPU, the microkernels and the tile planner.";
  m.def("attach", &attach, py::arg("library"));
  m.def("take_interrupt", &take_interrupt);
  m.def("cpu_info", &cpu_info);
  m.def("list_microkernels", &list_microkernels, py::arg("isa"));
  m.def("check_microkernel", &check_microkernel, py::arg("isa"), py::arg("name"), py::arg("seed"));
  m.def("time_microkernel", &time_microkernel, py::arg("isa"), py::arg("name"), py::arg("seconds"));
  m.def("time_activation", &time_activation, py::arg("isa"), py::arg("activation"), py::arg("seconds"));
  m.def("time_copy", &time_copy, py::arg("working_set"), py::arg("seconds"));
  m.def("plan_tiles", &plan_tiles, py::arg("in_h"), py::arg("in_w"), py::arg("in_channels"), py::arg("hidden_channels"),
        py::arg("out_channels"), py::arg("kernel") = 3, py::arg("stride") = 1, py::arg("expands") = true,
        py::arg("squeezes") = false, py::arg("images") = 1, py::arg("threads") = 1);
  m.def("plan_conv_tiles", &plan_conv_tiles, py::arg("in_h"), py::arg("in_w"), py::arg("in_channels"),
        py::arg("out_channels"), py::arg("kernel") = 1, py::arg("stride") = 1, py::arg("depthwise") = false,
        py::arg("images") = 1, py::arg("threads") = 1, py::arg("l2_bytes") = 0);
  m.def("simulate_cache", &simulate_cache, py::arg("trace"), py::arg("bytes"), py::arg("ways"), py::arg("kept_from"),
        py::arg("kept_bytes"));
  m.def("force_tiles", &force_tiles, py::kw_only(), py::arg("run_pixels") = 0, py::arg("parts") = 0,
        py::arg("band_rows") = 0, py::arg("keeps_hidden") = 0, py::arg("row_group") = 0, py::arg("hidden_blocks") = 0,
        py::arg("streams") = 0);
}
