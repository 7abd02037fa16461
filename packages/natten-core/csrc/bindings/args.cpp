#include "bindings/args.h"

#include <stdexcept>

namespace py = pybind11;

namespace natten_core::bindings {
namespace {

int64_t integer(PyObject* tuple, Py_ssize_t i) {
  const long long value = PyLong_AsLongLong(PyTuple_GET_ITEM(tuple, i));
  if (value == -1 && PyErr_Occurred() != nullptr) throw py::error_already_set();
  return value;
}

}  // namespace

Tensor tensor(const py::object& view, int axes) {
  if (view.is_none()) return {};
  PyObject* tuple = view.ptr();
  if (!PyTuple_Check(tuple) || PyTuple_GET_SIZE(tuple) < axes + 3)
    throw std::invalid_argument("a tensor is given as a tuple of its address and strides");
  Tensor made;
  made.data = address(integer(tuple, 0));
  made.batch = integer(tuple, 1), made.head = integer(tuple, axes + 2);
  for (int i = 0; i < axes; ++i) made.axis[kRank - axes + i] = integer(tuple, 2 + i);
  return made;
}

void need(std::initializer_list<const Tensor*> tensors) {
  for (const Tensor* one : tensors)
    if (one->data == nullptr) throw std::invalid_argument("a tensor is missing");
}

void need_additional(const Problem& problem, std::initializer_list<const Tensor*> tensors) {
  if (problem.additional > 0) need(tensors);
}

ForwardArgs forward_args(const Problem& problem, const py::object& query, const py::object& key,
                         const py::object& value, int64_t rpb, const py::object& additional_key,
                         const py::object& additional_value, const py::object& output, const py::object& lse) {
  ForwardArgs args;
  args.problem = problem;
  args.query = tensor(query, problem.rank), args.key = tensor(key, problem.rank);
  args.value = tensor(value, problem.rank), args.rpb = address(rpb);
  args.additional_key = tensor(additional_key, 1), args.additional_value = tensor(additional_value, 1);
  args.output = tensor(output, problem.rank), args.lse = tensor(lse, problem.rank);
  for (const Tensor* one : {&args.query, &args.key, &args.value})
    if (one->data == nullptr) throw std::invalid_argument("query, key and value are needed");
  if (problem.additional > 0 && (args.additional_key.data == nullptr || args.additional_value.data == nullptr))
    throw std::invalid_argument("additional keys and values are needed");
  return args;
}

}  // namespace natten_core::bindings
