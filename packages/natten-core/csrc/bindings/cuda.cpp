#include "bindings/cuda.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>

#include "bindings/args.h"
#include "cuda/dispatch.h"
#include "cuda/simt/simt.h"
#include "natten_core/problem.h"

namespace py = pybind11;

namespace natten_core::bindings {
namespace {

// Python's function from a number of bytes to an address. It must not outlive `allocate`.
auto allocator(const py::object& allocate) {
  return [&allocate](size_t bytes) {
    py::gil_scoped_acquire locked;
    return address(allocate(bytes).cast<int64_t>());
  };
}

int64_t cuda_forward(const Problem& problem, int device, int64_t stream, bool tf32, bool copies,
                     const py::object& query, const py::object& key, const py::object& value, int64_t rpb,
                     const py::object& additional_key, const py::object& additional_value, const py::object& output,
                     const py::object& lse) {
  const ForwardArgs args = forward_args(problem, query, key, value, rpb, additional_key, additional_value, output, lse);
  if (args.output.data == nullptr || args.lse.data == nullptr) throw std::invalid_argument("output and lse are needed");
  py::gil_scoped_release unlocked;
  return cuda::forward(args, device, address(stream), tf32, copies);
}

int64_t cuda_backward(const Problem& problem, int device, int64_t stream, bool tf32, bool copies,
                      const py::object& query, const py::object& key, const py::object& value, int64_t rpb,
                      const py::object& additional_key, const py::object& additional_value, const py::object& output,
                      const py::object& lse, const py::object& grad_output, const py::object& grad_lse,
                      const py::object& grad_query, const py::object& grad_key, const py::object& grad_value,
                      int64_t grad_rpb, const py::object& grad_additional_key, const py::object& grad_additional_value,
                      const py::object& allocate) {
  BackwardArgs args;
  args.forward = forward_args(problem, query, key, value, rpb, additional_key, additional_value, output, lse);
  args.grad_output = tensor(grad_output, problem.rank), args.grad_lse = tensor(grad_lse, problem.rank);
  args.grad_query = tensor(grad_query, problem.rank), args.grad_key = tensor(grad_key, problem.rank);
  args.grad_value = tensor(grad_value, problem.rank), args.grad_rpb = address(grad_rpb);
  args.grad_additional_key = tensor(grad_additional_key, 1);
  args.grad_additional_value = tensor(grad_additional_value, 1);
  for (const Tensor* one :
       {&args.forward.output, &args.forward.lse, &args.grad_output, &args.grad_query, &args.grad_key, &args.grad_value})
    if (one->data == nullptr)
      throw std::invalid_argument("output, lse, and gradients of output, query, key and value are needed");
  if (problem.additional > 0 &&
      (args.grad_additional_key.data == nullptr || args.grad_additional_value.data == nullptr))
    throw std::invalid_argument("gradients of additional keys and values are needed");
  const auto allocated = allocator(allocate);
  py::gil_scoped_release unlocked;
  return cuda::backward(args, device, address(stream), tf32, copies, allocated);
}

void cuda_qk(const Problem& problem, int device, int64_t stream, const py::object& query, const py::object& key,
             int64_t rpb, const py::object& additional_key, const py::object& scores) {
  const QkArgs args = qk_args(problem, query, key, rpb, additional_key, scores);
  py::gil_scoped_release unlocked;
  cuda::qk(args, device, address(stream));
}

void cuda_qk_backward(const Problem& problem, int device, int64_t stream, const py::object& query,
                      const py::object& key, int64_t rpb, const py::object& additional_key,
                      const py::object& grad_scores, const py::object& grad_query, const py::object& grad_key,
                      int64_t grad_rpb, const py::object& grad_additional_key, const py::object& allocate) {
  const QkBackwardArgs args = qk_backward_args(problem, query, key, rpb, additional_key, grad_scores, grad_query,
                                               grad_key, grad_rpb, grad_additional_key);
  const auto allocated = allocator(allocate);
  py::gil_scoped_release unlocked;
  cuda::qk_backward(args, device, address(stream), allocated);
}

void cuda_av(const Problem& problem, int device, int64_t stream, const py::object& weights, const py::object& value,
             const py::object& additional_value, const py::object& output) {
  const AvArgs args = av_args(problem, weights, value, additional_value, output);
  py::gil_scoped_release unlocked;
  cuda::av(args, device, address(stream));
}

void cuda_av_backward(const Problem& problem, int device, int64_t stream, const py::object& weights,
                      const py::object& value, const py::object& additional_value, const py::object& grad_output,
                      const py::object& grad_weights, const py::object& grad_value,
                      const py::object& grad_additional_value, const py::object& allocate) {
  const AvBackwardArgs args = av_backward_args(problem, weights, value, additional_value, grad_output, grad_weights,
                                               grad_value, grad_additional_value);
  const auto allocated = allocator(allocate);
  py::gil_scoped_release unlocked;
  cuda::av_backward(args, device, address(stream), allocated);
}

py::dict cuda_devices() {
  const cuda::Devices& found = cuda::devices();
  py::list list;
  for (const cuda::Device& one : found.devices) {
    py::dict device;
    device["name"] = one.name, device["architecture"] = one.architecture;
    device["multiprocessors"] = one.multiprocessors, device["built_for"] = one.built_for;
    list.append(device);
  }
  py::dict all;
  all["runtime"] = found.runtime, all["driver"] = found.driver, all["obstacle"] = found.obstacle;
  all["devices"] = list;
  return all;
}

// What a forward of such tensors runs on: the family, whether of copies, and those before it with their reasons, the
// faster form of the last family among them.
py::tuple cuda_choice(const Problem& problem, int device, bool tf32, const py::object& query, const py::object& key,
                      const py::object& value) {
  ForwardArgs args;
  args.problem = problem;
  args.query = tensor(query, problem.rank), args.key = tensor(key, problem.rank);
  args.value = tensor(value, problem.rank);
  const cuda::Facts facts = cuda::facts_of(device, tf32);
  const cuda::Variant variant = cuda::explain(args, facts);
  py::list passed_over;
  for (const cuda::Rejection& one : variant.passed_over)
    passed_over.append(py::make_tuple(cuda::name(one.family), one.reason));
  if (!cuda::has_tensor_cores(variant.family)) {
    if (const int64_t head_dim = cuda::copies_head_dim(args, facts)) {
      args.problem.head_dim = args.problem.head_dim_v = head_dim;
      const std::string family = cuda::name(cuda::choose(args.problem, facts), args.problem);
      return py::make_tuple(family + ", on aligned copies with head_dim " + std::to_string(head_dim),
                            py::tuple(passed_over));
    }
  }
  if (variant.family == cuda::Family::kSimt)
    if (const char* reason = cuda::simt::not_vectorized(args))
      passed_over.append(py::make_tuple("simt, 16 bytes at a time", reason));
  return py::make_tuple(cuda::name(variant.family, problem), py::tuple(passed_over));
}

}  // namespace

void add_cuda_kernels(py::module_& module) {
  py::register_exception_translator([](std::exception_ptr error) {
    try {
      if (error) std::rethrow_exception(error);
    } catch (const cuda::Unsupported& unsupported) {
      PyErr_SetString(PyExc_NotImplementedError, unsupported.what());
    } catch (const cuda::OutOfMemory& error) {
      PyErr_SetString(py::module_::import("torch").attr("OutOfMemoryError").ptr(), error.what());
    }
  });
  module.def("cuda_devices", &cuda_devices);
  module.def("cuda_choice", &cuda_choice);
  module.def("cuda_use_only", &cuda::use_only, py::arg("family"));
  module.def("cuda_forward", &cuda_forward);
  module.def("cuda_backward", &cuda_backward);
  module.def("cuda_qk", &cuda_qk);
  module.def("cuda_qk_backward", &cuda_qk_backward);
  module.def("cuda_av", &cuda_av);
  module.def("cuda_av_backward", &cuda_av_backward);
  module.attr("cuda_architectures") = cuda::architectures_built();
  module.attr("cuda_tensor_core_architectures") = cuda::tensor_core_architectures_built();
}

}  // namespace natten_core::bindings
