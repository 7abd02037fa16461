// Tensors as Python hands them over: tuples of address and strides.
#pragma once

#include <pybind11/pybind11.h>

#include "natten_core/problem.h"

namespace natten_core::bindings {

// `view`: address and strides of a tensor [batch, `axes` more axes, heads, ...], or None.
Tensor tensor(const pybind11::object& view, int axes);

inline void* address(int64_t value) { return reinterpret_cast<void*>(value); }

// Throws std::invalid_argument where something that the problem needs, other than output and lse, is missing.
ForwardArgs forward_args(const Problem& problem, const pybind11::object& query, const pybind11::object& key,
                         const pybind11::object& value, int64_t rpb, const pybind11::object& additional_key,
                         const pybind11::object& additional_value, const pybind11::object& output,
                         const pybind11::object& lse);

}  // namespace natten_core::bindings
