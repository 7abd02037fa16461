// The compiled module as Python sees it on a machine with CUDA, over the fake runtime and the emulator.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bindings/cuda.h"
#include "cuda_runtime_api.h"
#include "emulator.h"

PYBIND11_MODULE(_cuda_host, m) {
  natten_core::bindings::add_cuda_plan(m);
  natten_core::bindings::add_cuda_kernels(m);
  // What the machine has, from now on; asked of it once, at the first call.
  m.def("fake_machine", [](int driver, const std::vector<int>& architectures) {
    fake::runtime().driver = driver, fake::runtime().architectures = architectures;
    emu::global().clear();
    emu::global().add_all();
  });
  m.def("fake_failure", [](const std::string& call, int error) {
    fake::runtime().failures.clear(), fake::runtime().pending = cudaSuccess;
    if (error) fake::runtime().failures[call] = static_cast<cudaError_t>(error);
  });
  m.def("fake_launches", [] {
    std::vector<std::pair<int, int64_t>> found;
    for (const auto& [device, stream] : std::exchange(fake::runtime().launches, {}))
      found.emplace_back(device, reinterpret_cast<int64_t>(stream));
    return found;
  });
  m.def("reports", [] { return emu::journal().reports.size(); });
}
