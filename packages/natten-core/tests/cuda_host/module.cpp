// A family of cuda kernels run by the emulator, for Python: integers and addresses in, reports out. The caller
// (cuda_harness.py) keeps the tensors alive and knows what they are.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "emulator.h"
#include "entry.h"

namespace py = pybind11;

namespace {

using namespace natten_core;

using View = std::array<int64_t, 6>;  // address; strides of batch, z, y, x, head
using Buffers = std::vector<std::tuple<int64_t, int64_t, int>>;  // address, bytes, emu::Access

template <class T>
void read(const py::dict& from, const char* name, T& to) {
  to = from[name].cast<T>();
}
template <class T>
void read(const py::dict& from, const char* name, T (&to)[kRank]) {
  const auto values = from[name].cast<std::array<T, kRank>>();
  for (int i = 0; i < kRank; ++i) to[i] = values[static_cast<size_t>(i)];
}

DType dtype_of(const std::string& name) {
  if (name == "float32") return DType::kFloat32;
  if (name == "float64") return DType::kFloat64;
  if (name == "float16") return DType::kFloat16;
  if (name == "bfloat16") return DType::kBFloat16;
  throw std::invalid_argument("dtype " + name);
}

Problem problem_of(const py::dict& d) {
  Problem p;
  p.dtype = dtype_of(d["dtype"].cast<std::string>());
  read(d, "rank", p.rank), read(d, "batch", p.batch), read(d, "heads", p.heads), read(d, "heads_kv", p.heads_kv);
  read(d, "head_dim", p.head_dim), read(d, "head_dim_v", p.head_dim_v), read(d, "additional", p.additional);
  read(d, "extent", p.extent), read(d, "kernel", p.kernel), read(d, "stride", p.stride);
  read(d, "dilation", p.dilation), read(d, "causal", p.causal), read(d, "scale", p.scale);
  return p;
}

Tensor tensor(const py::dict& d, const char* name) {
  if (!d.contains(name)) return {};
  const View v = d[name].cast<View>();
  return {reinterpret_cast<void*>(v[0]), v[1], {v[2], v[3], v[4]}, v[5]};
}
void* address(const py::dict& d, const char* name) {
  return d.contains(name) ? reinterpret_cast<void*>(d[name].cast<View>()[0]) : nullptr;
}

ForwardArgs forward_args(const py::dict& problem, const py::dict& t) {
  ForwardArgs a;
  a.problem = problem_of(problem);
  a.query = tensor(t, "query"), a.key = tensor(t, "key"), a.value = tensor(t, "value"), a.rpb = address(t, "rpb");
  a.additional_key = tensor(t, "additional_key"), a.additional_value = tensor(t, "additional_value");
  a.output = tensor(t, "output"), a.lse = tensor(t, "lse");
  return a;
}

BackwardArgs backward_args(const py::dict& problem, const py::dict& t) {
  BackwardArgs a;
  a.forward = forward_args(problem, t);
  a.grad_output = tensor(t, "grad_output"), a.grad_lse = tensor(t, "grad_lse");
  a.grad_query = tensor(t, "grad_query"), a.grad_key = tensor(t, "grad_key"), a.grad_value = tensor(t, "grad_value");
  a.grad_rpb = address(t, "grad_rpb");
  a.grad_additional_key = tensor(t, "grad_additional_key");
  a.grad_additional_value = tensor(t, "grad_additional_value");
  return a;
}

void prepare(const py::dict& options, const Buffers& buffers) {
  emu::Options& o = emu::options();
  read(options, "seed", o.seed), read(options, "threads", o.threads), read(options, "mma_truncate", o.mma_truncate);
  read(options, "jitter", o.jitter), read(options, "count_banks", o.count_banks);
  emu::journal().clear();
  emu::global().clear();
  for (const auto& [data, bytes, access] : buffers)
    emu::global().add(reinterpret_cast<const void*>(data), static_cast<size_t>(bytes),
                      static_cast<emu::Access>(access));
}

cuda::Launch launch_of(const py::dict& options) {
  return {nullptr, options["architecture"].cast<int>(), options["multiprocessors"].cast<int>()};
}

py::dict results() {
  py::list reports, wavefronts;
  for (const auto& [where, r] : emu::journal().reports)
    reports.append(py::make_tuple(where.first, where.second.file, where.second.line, r.count, r.text));
  for (const auto& [where, w] : emu::journal().wavefronts)
    wavefronts.append(
        py::make_tuple(where.first, where.second.file, where.second.line, w.accesses, w.wavefronts, w.least));
  py::dict d;
  d["reports"] = reports, d["wavefronts"] = wavefronts;
  d["launches"] = emu::global().launch;
  emu::global().clear();
  return d;
}

void need(bool there, const char* what) {
  if (!there) throw std::runtime_error(std::string(entry().family) + " has no " + what + " yet");
}

py::object unsupported(const py::dict& problem) {
  need(entry().unsupported, "unsupported()");
  const char* reason = entry().unsupported(problem_of(problem));
  return reason ? py::object(py::str(reason)) : py::none();
}

py::dict forward(const py::dict& problem, const py::dict& tensors, const Buffers& buffers, const py::dict& options) {
  need(entry().forward, "forward()");
  const ForwardArgs args = forward_args(problem, tensors);
  const cuda::Launch launch = launch_of(options);
  prepare(options, buffers);
  {
    const py::gil_scoped_release unlocked;
    entry().forward(args, launch);
  }
  return results();
}

py::dict backward(const py::dict& problem, const py::dict& tensors, const Buffers& buffers, const py::dict& options) {
  need(entry().backward && entry().backward_workspace, "backward()");
  const BackwardArgs args = backward_args(problem, tensors);
  const cuda::Launch launch = launch_of(options);
  prepare(options, buffers);
  const size_t bytes = entry().backward_workspace(args);
  std::unique_ptr<void, decltype(&std::free)> workspace(std::aligned_alloc(512, (bytes + 511) / 512 * 512), &std::free);
  if (bytes) {
    std::memset(workspace.get(), 0xff, bytes);
    emu::global().add(workspace.get(), bytes, emu::Access::kWrite);
  }
  {
    const py::gil_scoped_release unlocked;
    entry().backward(args, bytes ? workspace.get() : nullptr, launch);
  }
  py::dict d = results();
  d["workspace"] = bytes;
  return d;
}

}  // namespace

PYBIND11_MODULE(_cuda_host, m) {
  m.def("unsupported", &unsupported);
  m.def("forward", &forward);
  m.def("backward", &backward);
  m.def("has_backward", [] { return entry().backward != nullptr && entry().backward_workspace != nullptr; });
}
