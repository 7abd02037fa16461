// The cpu kernels for Python.
#include "bindings/cpu.h"

#include <initializer_list>
#include <stdexcept>

#include "bindings/args.h"
#include "cpu/kernels.h"
#include "natten_core/two_stage.h"

namespace py = pybind11;

namespace natten_core::bindings {
namespace {

void need(std::initializer_list<const Tensor*> tensors) {
  for (const Tensor* one : tensors)
    if (one->data == nullptr) throw std::invalid_argument("a tensor is missing");
}
void need_additional(const Problem& problem, std::initializer_list<const Tensor*> tensors) {
  if (problem.additional > 0) need(tensors);
}

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

QkArgs qk_args(const Problem& problem, int threads, const py::object& query, const py::object& key, int64_t rpb,
               const py::object& additional_key) {
  QkArgs args;
  args.problem = on_threads(problem, threads);
  args.query = tensor(query, problem.rank), args.key = tensor(key, problem.rank), args.rpb = address(rpb);
  args.additional_key = tensor(additional_key, 1);
  need({&args.query, &args.key});
  need_additional(problem, {&args.additional_key});
  return args;
}

void cpu_qk(const Problem& problem, int threads, const py::object& query, const py::object& key, int64_t rpb,
            const py::object& additional_key, const py::object& scores) {
  QkArgs args = qk_args(problem, threads, query, key, rpb, additional_key);
  args.scores = tensor(scores, problem.rank);
  need({&args.scores});
  py::gil_scoped_release unlocked;
  cpu::qk(args);
}

void cpu_qk_backward(const Problem& problem, int threads, const py::object& query, const py::object& key, int64_t rpb,
                     const py::object& additional_key, const py::object& grad_scores, const py::object& grad_query,
                     const py::object& grad_key, int64_t grad_rpb, const py::object& grad_additional_key) {
  QkBackwardArgs args;
  args.forward = qk_args(problem, threads, query, key, rpb, additional_key);
  args.grad_scores = tensor(grad_scores, problem.rank), args.grad_query = tensor(grad_query, problem.rank);
  args.grad_key = tensor(grad_key, problem.rank), args.grad_rpb = address(grad_rpb);
  args.grad_additional_key = tensor(grad_additional_key, 1);
  need({&args.grad_scores, &args.grad_query, &args.grad_key});
  need_additional(problem, {&args.grad_additional_key});
  if ((rpb == 0) != (grad_rpb == 0)) throw std::invalid_argument("rpb and its gradient go together");
  py::gil_scoped_release unlocked;
  cpu::qk_backward(args);
}

AvArgs av_args(const Problem& problem, int threads, const py::object& weights, const py::object& value,
               const py::object& additional_value) {
  AvArgs args;
  args.problem = on_threads(problem, threads);
  args.weights = tensor(weights, problem.rank), args.value = tensor(value, problem.rank);
  args.additional_value = tensor(additional_value, 1);
  need({&args.weights, &args.value});
  need_additional(problem, {&args.additional_value});
  return args;
}

void cpu_av(const Problem& problem, int threads, const py::object& weights, const py::object& value,
            const py::object& additional_value, const py::object& output) {
  AvArgs args = av_args(problem, threads, weights, value, additional_value);
  args.output = tensor(output, problem.rank);
  need({&args.output});
  py::gil_scoped_release unlocked;
  cpu::av(args);
}

void cpu_av_backward(const Problem& problem, int threads, const py::object& weights, const py::object& value,
                     const py::object& additional_value, const py::object& grad_output, const py::object& grad_weights,
                     const py::object& grad_value, const py::object& grad_additional_value) {
  AvBackwardArgs args;
  args.forward = av_args(problem, threads, weights, value, additional_value);
  args.grad_output = tensor(grad_output, problem.rank), args.grad_weights = tensor(grad_weights, problem.rank);
  args.grad_value = tensor(grad_value, problem.rank);
  args.grad_additional_value = tensor(grad_additional_value, 1);
  need({&args.grad_output, &args.grad_weights, &args.grad_value});
  need_additional(problem, {&args.grad_additional_value});
  py::gil_scoped_release unlocked;
  cpu::av_backward(args);
}

}  // namespace

void add_cpu_kernels(py::module_& module) {
  module.def("cpu_family", [](const Problem& problem) { return cpu::is_fused(problem) ? "fused" : "general"; });
  module.def("cpu_forward", &cpu_forward);
  module.def("cpu_backward", &cpu_backward);
  module.def("cpu_qk", &cpu_qk);
  module.def("cpu_qk_backward", &cpu_qk_backward);
  module.def("cpu_av", &cpu_av);
  module.def("cpu_av_backward", &cpu_av_backward);
}

}  // namespace natten_core::bindings
