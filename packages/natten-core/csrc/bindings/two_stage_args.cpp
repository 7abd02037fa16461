#include <stdexcept>

#include "bindings/args.h"

namespace py = pybind11;

namespace natten_core::bindings {
namespace {

QkArgs qk_inputs(const Problem& problem, const py::object& query, const py::object& key, int64_t rpb,
                 const py::object& additional_key) {
  QkArgs args;
  args.problem = problem;
  args.query = tensor(query, problem.rank), args.key = tensor(key, problem.rank), args.rpb = address(rpb);
  args.additional_key = tensor(additional_key, 1);
  need({&args.query, &args.key});
  need_additional(problem, {&args.additional_key});
  return args;
}

AvArgs av_inputs(const Problem& problem, const py::object& weights, const py::object& value,
                 const py::object& additional_value) {
  AvArgs args;
  args.problem = problem;
  args.weights = tensor(weights, problem.rank), args.value = tensor(value, problem.rank);
  args.additional_value = tensor(additional_value, 1);
  need({&args.weights, &args.value});
  need_additional(problem, {&args.additional_value});
  return args;
}

}  // namespace

QkArgs qk_args(const Problem& problem, const py::object& query, const py::object& key, int64_t rpb,
               const py::object& additional_key, const py::object& scores) {
  QkArgs args = qk_inputs(problem, query, key, rpb, additional_key);
  args.scores = tensor(scores, problem.rank);
  need({&args.scores});
  return args;
}

QkBackwardArgs qk_backward_args(const Problem& problem, const py::object& query, const py::object& key, int64_t rpb,
                                const py::object& additional_key, const py::object& grad_scores,
                                const py::object& grad_query, const py::object& grad_key, int64_t grad_rpb,
                                const py::object& grad_additional_key) {
  QkBackwardArgs args;
  args.forward = qk_inputs(problem, query, key, rpb, additional_key);
  args.grad_scores = tensor(grad_scores, problem.rank), args.grad_query = tensor(grad_query, problem.rank);
  args.grad_key = tensor(grad_key, problem.rank), args.grad_rpb = address(grad_rpb);
  args.grad_additional_key = tensor(grad_additional_key, 1);
  need({&args.grad_scores, &args.grad_query, &args.grad_key});
  need_additional(problem, {&args.grad_additional_key});
  if ((rpb == 0) != (grad_rpb == 0)) throw std::invalid_argument("rpb and its gradient go together");
  return args;
}

AvArgs av_args(const Problem& problem, const py::object& weights, const py::object& value,
               const py::object& additional_value, const py::object& output) {
  AvArgs args = av_inputs(problem, weights, value, additional_value);
  args.output = tensor(output, problem.rank);
  need({&args.output});
  return args;
}

AvBackwardArgs av_backward_args(const Problem& problem, const py::object& weights, const py::object& value,
                                const py::object& additional_value, const py::object& grad_output,
                                const py::object& grad_weights, const py::object& grad_value,
                                const py::object& grad_additional_value) {
  AvBackwardArgs args;
  args.forward = av_inputs(problem, weights, value, additional_value);
  args.grad_output = tensor(grad_output, problem.rank), args.grad_weights = tensor(grad_weights, problem.rank);
  args.grad_value = tensor(grad_value, problem.rank);
  args.grad_additional_value = tensor(grad_additional_value, 1);
  need({&args.grad_output, &args.grad_weights, &args.grad_value});
  need_additional(problem, {&args.grad_additional_value});
  return args;
}

}  // namespace natten_core::bindings
