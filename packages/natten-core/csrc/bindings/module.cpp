// This folder alone knows Python: integers and pointers in, plain data out. The callers (natten_core/backends)
// have checked shapes, types and strides; what is checked again here is what could corrupt memory.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdlib>
#include <stdexcept>
#include <string>

#include "bindings/cpu.h"
#include "bindings/cuda.h"
#include "cpu/kernels.h"
#include "natten_core/neighborhood.h"

namespace py = pybind11;

namespace {

using namespace natten_core;

py::dict build_info() {
  py::dict info;
  info["isa_built"] = cpu::isa_built();
  info["isa_present"] = cpu::isa_present();
  info["isa_default"] = cpu::isa_active();
  info["compiler"] = NATTEN_COMPILER;
#if defined(_OPENMP)
  info["openmp"] = std::to_string(_OPENMP);
#else
  info["openmp"] = py::none();
#endif
#if defined(NATTEN_CUDA)
  info["cuda_toolkit"] = NATTEN_CUDA_TOOLKIT;
#else
  info["cuda_toolkit"] = py::none();
#endif
  return info;
}

// First key coordinate of the window of the query at coordinate `index`: for the tests, which hold it against the
// reference's own arithmetic.
int64_t window_start_of(int64_t index, int64_t length, int64_t kernel_size, int64_t dilation) {
  const int64_t group = index % dilation;
  const int64_t members = group_length(length, dilation, group);
  return window_begin<int64_t>(index / dilation, members, kernel_size, 1, false) * dilation + group;
}

}  // namespace

PYBIND11_MODULE(_C, m, py::mod_gil_not_used()) {
  m.doc() = "Compiled kernels of natten-core. Private: use the functions of natten_core.";
  if (const char* isa = std::getenv("NATTEN_CORE_ISA"); isa != nullptr && *isa != '\0') {
    try {
      cpu::set_isa(isa);
    } catch (const std::runtime_error& error) {
      std::string present;
      for (const std::string& name : cpu::isa_present()) present += (present.empty() ? "" : ", ") + name;
      throw py::import_error("NATTEN_CORE_ISA=" + std::string(isa) + ": " + error.what() + "; it can be one of " +
                             present);
    }
  }
  m.def("build_info", &build_info);
  m.def("window_start", &window_start_of, py::arg("index"), py::arg("length"), py::arg("kernel_size"),
        py::arg("dilation"));
  bindings::add_cuda_plan(m);
  bindings::add_cpu_kernels(m);
#if defined(NATTEN_CUDA)
  bindings::add_cuda_kernels(m);
#endif
}
