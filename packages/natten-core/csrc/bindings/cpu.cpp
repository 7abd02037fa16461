// The cpu kernels for Python.
#include "bindings/cpu.h"

#include <stdexcept>

#include "bindings/args.h"
#include "cpu/kernels.h"

namespace py = pybind11;

namespace natten_core::bindings {
namespace {

Problem on_threads(const Problem& problem, int threads) {
  if (threads < 1) throw std::invalid_argument("threads must be positive");
  Problem p = problem;
  p.threads = threads;
  return p;
}

void cpu_forward(const Problem& problem, int threads, const py::object& query, const py::object& key,
                 const py::object& value, int64_t rpb, const py::object& additional_key,
                 const py::object& additional_value, const py::object& output, const py::object& lse) {
  const ForwardArgs args =
      forward_args(on_threads(problem, threads), query, key, value, rpb, additional_key, additional_value, output, lse);
  need({&args.output, &args.lse});
  py::gil_scoped_release unlocked;
  cpu::forward(args);
}

void cpu_backward(const Problem& problem, int threads, const py::object& query, const py::object& key,
                  const py::object& value, int64_t rpb, const py::object& additional_key,
                  const py::object& additional_value, const py::object& grad_output, const py::object& grad_lse,
                  const py::object& grad_query, const py::object& grad_key, const py::object& grad_value,
                  int64_t grad_rpb, const py::object& grad_additional_key, const py::object& grad_additional_value) {
  BackwardArgs args;
  args.forward = forward_args(on_threads(problem, threads), query, key, value, rpb, additional_key, additional_value,
                              py::none(), py::none());
  args.grad_output = tensor(grad_output, problem.rank), args.grad_lse = tensor(grad_lse, problem.rank);
  args.grad_query = tensor(grad_query, problem.rank), args.grad_key = tensor(grad_key, problem.rank);
  args.grad_value = tensor(grad_value, problem.rank), args.grad_rpb = address(grad_rpb);
  args.grad_additional_key = tensor(grad_additional_key, 1);
  args.grad_additional_value = tensor(grad_additional_value, 1);
  need({&args.grad_output, &args.grad_query, &args.grad_key, &args.grad_value});
  need_additional(problem, {&args.grad_additional_key, &args.grad_additional_value});
  if ((rpb == 0) != (grad_rpb == 0)) throw std::invalid_argument("rpb and its gradient go together");
  py::gil_scoped_release unlocked;
  cpu::backward(args);
}

void cpu_qk(const Problem& problem, int threads, const py::object& query, const py::object& key, int64_t rpb,
            const py::object& additional_key, const py::object& scores) {
  const QkArgs args = qk_args(on_threads(problem, threads), query, key, rpb, additional_key, scores);
  py::gil_scoped_release unlocked;
  cpu::qk(args);
}

void cpu_qk_backward(const Problem& problem, int threads, const py::object& query, const py::object& key, int64_t rpb,
                     const py::object& additional_key, const py::object& grad_scores, const py::object& grad_query,
                     const py::object& grad_key, int64_t grad_rpb, const py::object& grad_additional_key) {
  const QkBackwardArgs args = qk_backward_args(on_threads(problem, threads), query, key, rpb, additional_key,
                                               grad_scores, grad_query, grad_key, grad_rpb, grad_additional_key);
  py::gil_scoped_release unlocked;
  cpu::qk_backward(args);
}

void cpu_av(const Problem& problem, int threads, const py::object& weights, const py::object& value,
            const py::object& additional_value, const py::object& output) {
  const AvArgs args = av_args(on_threads(problem, threads), weights, value, additional_value, output);
  py::gil_scoped_release unlocked;
  cpu::av(args);
}

void cpu_av_backward(const Problem& problem, int threads, const py::object& weights, const py::object& value,
                     const py::object& additional_value, const py::object& grad_output, const py::object& grad_weights,
                     const py::object& grad_value, const py::object& grad_additional_value) {
  const AvBackwardArgs args = av_backward_args(on_threads(problem, threads), weights, value, additional_value,
                                               grad_output, grad_weights, grad_value, grad_additional_value);
  py::gil_scoped_release unlocked;
  cpu::av_backward(args);
}

}  // namespace

void add_cpu_kernels(py::module_& module) {
  module.def("cpu_forward", &cpu_forward);
  module.def("cpu_backward", &cpu_backward);
  module.def("cpu_qk", &cpu_qk);
  module.def("cpu_qk_backward", &cpu_qk_backward);
  module.def("cpu_av", &cpu_av);
  module.def("cpu_av_backward", &cpu_av_backward);
}

}  // namespace natten_core::bindings
