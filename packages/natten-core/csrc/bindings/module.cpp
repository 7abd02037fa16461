// The only file that knows Python: integers and pointers in, plain data out. The caller (natten_core/backends/cpu.py)
// has checked shapes, types and strides; what is checked again here is what could corrupt memory.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdlib>
#include <optional>
#include <stdexcept>
#include <string>

#include "cpu/kernels.h"
#include "natten_core/neighborhood.h"
#include "natten_core/problem.h"

namespace py = pybind11;

namespace {

using namespace natten_core;

using Sizes = std::array<int64_t, 3>;
using View = std::array<int64_t, 6>;  // data pointer; strides of batch, z, y, x, head

Tensor tensor(const View& v) { return {reinterpret_cast<void*>(v[0]), v[1], {v[2], v[3], v[4]}, v[5]}; }

Problem problem(const std::string& dtype, int64_t batch, int64_t heads, int64_t head_dim, const Sizes& spatial,
                const Sizes& kernel_size, const Sizes& dilation, double scale, int threads) {
  if (dtype != "float32" && dtype != "float64") throw std::invalid_argument("dtype must be float32 or float64");
  if (batch < 1 || heads < 1 || head_dim < 1 || threads < 1)
    throw std::invalid_argument("batch, heads, head_dim and threads must be positive");
  Problem p;
  p.is_double = dtype == "float64";
  p.batch = batch, p.heads = heads, p.head_dim = head_dim, p.scale = scale, p.threads = threads;
  for (int axis = 0; axis < kRank; ++axis) {
    if (kernel_size[axis] < 1 || dilation[axis] < 1 || kernel_size[axis] * dilation[axis] > spatial[axis])
      throw std::invalid_argument("kernel_size * dilation must be positive and fit the extent on every axis");
    p.extent[axis] = spatial[axis], p.kernel[axis] = kernel_size[axis], p.dilation[axis] = dilation[axis];
  }
  return p;
}

void na_forward(const std::string& dtype, int64_t batch, int64_t heads, int64_t head_dim, const Sizes& spatial,
                const Sizes& kernel_size, const Sizes& dilation, double scale, const View& query, const View& key,
                const View& value, int64_t rpb, const View& output, const View& lse, int threads) {
  ForwardArgs args;
  args.problem = problem(dtype, batch, heads, head_dim, spatial, kernel_size, dilation, scale, threads);
  args.query = tensor(query), args.key = tensor(key), args.value = tensor(value);
  args.rpb = reinterpret_cast<const void*>(rpb), args.output = tensor(output), args.lse = tensor(lse);
  py::gil_scoped_release unlocked;
  cpu::forward(args);
}

void na_backward(const std::string& dtype, int64_t batch, int64_t heads, int64_t head_dim, const Sizes& spatial,
                 const Sizes& kernel_size, const Sizes& dilation, double scale, const View& query, const View& key,
                 const View& value, int64_t rpb, const View& grad_output, const std::optional<View>& grad_lse,
                 const View& grad_query, const View& grad_key, const View& grad_value, int64_t grad_rpb, int threads) {
  BackwardArgs args;
  ForwardArgs& f = args.forward;
  f.problem = problem(dtype, batch, heads, head_dim, spatial, kernel_size, dilation, scale, threads);
  f.query = tensor(query), f.key = tensor(key), f.value = tensor(value);
  f.rpb = reinterpret_cast<const void*>(rpb);
  args.grad_output = tensor(grad_output);
  if (grad_lse) args.grad_lse = tensor(*grad_lse);
  args.grad_query = tensor(grad_query), args.grad_key = tensor(grad_key), args.grad_value = tensor(grad_value);
  args.grad_rpb = reinterpret_cast<void*>(grad_rpb);
  py::gil_scoped_release unlocked;
  cpu::backward(args);
}

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
  info["cuda_architectures"] = py::list();
  return info;
}

// First key coordinate of the window of the query at coordinate `index`: for the tests, which hold it against the
// reference's own arithmetic.
int64_t window_start_of(int64_t index, int64_t length, int64_t kernel_size, int64_t dilation) {
  const int64_t group = index % dilation;
  return window_start(index / dilation, group_length(length, dilation, group), kernel_size) * dilation + group;
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
  m.def("na_forward", &na_forward);
  m.def("na_backward", &na_backward);
}
