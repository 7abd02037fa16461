// The two-stage form of the family "simt", run by the emulator, for Python. See module.cpp.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "cuda/simt/two_stage.h"
#include "emulator.h"

namespace py = pybind11;

namespace {

using namespace natten_core;

using View = std::array<int64_t, 6>;                             // address; strides of batch, z, y, x, head
using Buffers = std::vector<std::tuple<int64_t, int64_t, int>>;  // address, bytes, emu::Access
constexpr cuda::Launch kLaunch{nullptr, 90, 132};

template <class T>
void read(const py::dict& from, const char* name, T& to) {
  to = from[name].cast<T>();
}
template <class T>
void read(const py::dict& from, const char* name, T (&to)[kRank]) {
  const auto values = from[name].cast<std::array<T, kRank>>();
  for (int i = 0; i < kRank; ++i) to[i] = values[static_cast<size_t>(i)];
}

Problem problem_of(const py::dict& d) {
  Problem p;
  const auto dtype = d["dtype"].cast<std::string>();
  p.dtype = dtype == "float32"   ? DType::kFloat32
            : dtype == "float64" ? DType::kFloat64
            : dtype == "float16" ? DType::kFloat16
                                 : DType::kBFloat16;
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

class Workspace {
 public:
  void* take(size_t bytes) {
    if (bytes == 0) return nullptr;
    data_.reset(std::aligned_alloc(512, (bytes + 511) / 512 * 512));
    std::memset(data_.get(), 0xff, bytes);
    emu::global().add(data_.get(), bytes, emu::Access::kWrite);
    return data_.get();
  }

 private:
  std::unique_ptr<void, decltype(&std::free)> data_{nullptr, &std::free};
};

QkArgs qk_args(const Problem& p, const py::dict& t) {
  return {
      p, tensor(t, "query"), tensor(t, "key"), tensor(t, "rpb").data, tensor(t, "additional_key"), tensor(t, "scores")};
}
AvArgs av_args(const Problem& p, const py::dict& t) {
  return {p, tensor(t, "weights"), tensor(t, "value"), tensor(t, "additional_value"), tensor(t, "output")};
}

// Returns what the emulator has to report.
std::vector<std::string> run(const std::string& op, const py::dict& problem, const py::dict& t, const Buffers& buffers,
                             unsigned seed) {
  emu::options() = {};
  emu::options().seed = seed, emu::options().threads = 2;
  emu::journal().clear();
  emu::global().clear();
  for (const auto& [data, bytes, access] : buffers)
    emu::global().add(reinterpret_cast<const void*>(data), static_cast<size_t>(bytes),
                      static_cast<emu::Access>(access));
  const Problem p = problem_of(problem);
  Workspace workspace;
  if (op == "qk") {
    cuda::simt::qk_forward(qk_args(p, t), kLaunch);
  } else if (op == "av") {
    cuda::simt::av_forward(av_args(p, t), kLaunch);
  } else if (op == "qk_backward") {
    const QkBackwardArgs args{qk_args(p, t),         tensor(t, "grad_scores"),   tensor(t, "grad_query"),
                              tensor(t, "grad_key"), tensor(t, "grad_rpb").data, tensor(t, "grad_additional_key")};
    cuda::simt::qk_backward(args, workspace.take(cuda::simt::qk_backward_workspace(args)), kLaunch);
  } else {
    const AvBackwardArgs args{av_args(p, t), tensor(t, "grad_output"), tensor(t, "grad_weights"),
                              tensor(t, "grad_value"), tensor(t, "grad_additional_value")};
    cuda::simt::av_backward(args, workspace.take(cuda::simt::av_backward_workspace(args)), kLaunch);
  }
  std::vector<std::string> reports;
  for (const auto& [where, report] : emu::journal().reports)
    reports.push_back(where.first + ", " + where.second.file + ":" + std::to_string(where.second.line) + ": " +
                      report.text);
  emu::global().clear();
  return reports;
}

}  // namespace

PYBIND11_MODULE(_cuda_host, m) { m.def("run", &run); }
