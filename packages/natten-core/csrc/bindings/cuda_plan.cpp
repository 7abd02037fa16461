#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bindings/cuda.h"
#include "cuda/plan.h"
#include "natten_core/problem.h"

namespace py = pybind11;

namespace natten_core::bindings {
namespace {

using Sizes = std::vector<int64_t>;

DType dtype_of(const std::string& name) {
  if (name == "float16") return DType::kFloat16;
  if (name == "bfloat16") return DType::kBFloat16;
  if (name == "float32") return DType::kFloat32;
  if (name == "float64") return DType::kFloat64;
  throw std::invalid_argument("dtype must be float16, bfloat16, float32 or float64");
}

// The caller has checked all of it; what is checked again is what could corrupt memory.
Problem problem(const std::string& dtype, int64_t batch, int64_t heads, int64_t heads_kv, int64_t head_dim,
                int64_t head_dim_v, int64_t additional, const Sizes& spatial, const Sizes& kernel_size,
                const Sizes& stride, const Sizes& dilation, const std::vector<bool>& is_causal, double scale) {
  const size_t rank = spatial.size();
  if (rank < 1 || rank > kRank || kernel_size.size() != rank || stride.size() != rank || dilation.size() != rank ||
      is_causal.size() != rank)
    throw std::invalid_argument("settings must have one value for each of 1 to 3 axes");
  if (batch < 1 || heads < 1 || heads_kv < 1 || head_dim < 1 || head_dim_v < 1 || additional < 0)
    throw std::invalid_argument("batch, heads and head_dim must be positive");
  if (heads % heads_kv != 0) throw std::invalid_argument("heads must be a multiple of heads_kv");
  Problem p;
  p.dtype = dtype_of(dtype), p.rank = static_cast<int>(rank), p.batch = batch, p.heads = heads;
  p.heads_kv = heads_kv, p.head_dim = head_dim, p.head_dim_v = head_dim_v, p.additional = additional, p.scale = scale;
  for (size_t i = 0; i < rank; ++i) {
    if (kernel_size[i] < 1 || dilation[i] < 1 || kernel_size[i] > spatial[i] / dilation[i])
      throw std::invalid_argument("kernel_size * dilation must be positive and fit the extent on every axis");
    if (stride[i] < 1 || stride[i] > kernel_size[i])
      throw std::invalid_argument("stride must be positive and at most kernel_size on every axis");
    const size_t axis = kRank - rank + i;
    p.extent[axis] = spatial[i], p.kernel[axis] = kernel_size[i], p.stride[axis] = stride[i];
    p.dilation[axis] = dilation[i], p.causal[axis] = is_causal[i];
  }
  return p;
}

using Named = std::vector<std::pair<std::string, std::string>>;

// Of the forward of a problem that lies well in memory, or of its backward with a bias: the family, those passed over,
// and the head_dim of copies that are worth making.
py::tuple cuda_plan(const Problem& problem, int architecture, bool tensor_cores, const std::string& only, bool backward,
                    bool tf32) {
  const cuda::Facts facts{architecture, tensor_cores, only.empty() ? cuda::Family::kNone : cuda::family_of(only), tf32};
  BackwardArgs args;
  float bias = 0;
  args.forward.problem = problem, args.forward.rpb = args.grad_rpb = &bias;
  const cuda::Variant variant = backward ? cuda::explain(args, facts) : cuda::explain(problem, facts);
  Named passed_over;
  for (const cuda::Rejection& one : variant.passed_over) passed_over.emplace_back(cuda::name(one.family), one.reason);
  const bool copies = !cuda::has_tensor_cores(variant.family);
  const int64_t head_dim = !copies    ? 0
                           : backward ? cuda::copies_head_dim(args, facts)
                                      : cuda::copies_head_dim(problem, facts);
  return py::make_tuple(cuda::name(variant.family), passed_over, head_dim);
}

std::vector<std::string> cuda_families() {
  std::vector<std::string> names;
  for (cuda::Family family : cuda::families()) names.emplace_back(cuda::name(family));
  return names;
}

}  // namespace

void add_cuda_plan(py::module_& module) {
  py::class_<Problem>(module, "Problem", py::module_local())
      .def(py::init(&problem), py::arg("dtype"), py::arg("batch"), py::arg("heads"), py::arg("heads_kv"),
           py::arg("head_dim"), py::arg("head_dim_v"), py::arg("additional"), py::arg("spatial"),
           py::arg("kernel_size"), py::arg("stride"), py::arg("dilation"), py::arg("is_causal"), py::arg("scale"))
      .def("__repr__", &cuda::describe);
  module.def("cuda_plan", &cuda_plan, py::arg("problem"), py::arg("architecture"), py::arg("tensor_cores") = true,
             py::arg("only") = "", py::arg("backward") = false, py::arg("tf32") = false);
  module.def("cuda_families", &cuda_families);
  module.def("cuda_runs_on", &cuda::runs_on, py::arg("built"), py::arg("architecture"));
}

}  // namespace natten_core::bindings
