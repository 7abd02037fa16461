// Tensors as Python hands them over: tuples of address and strides.
#pragma once

#include <pybind11/pybind11.h>

#include <initializer_list>

#include "natten_core/two_stage.h"

namespace natten_core::bindings {

// `view`: address and strides of a tensor [batch, `axes` more axes, heads, ...], or None.
Tensor tensor(const pybind11::object& view, int axes);

// Throw std::invalid_argument where one is missing; the second only if the problem has additional keys.
void need(std::initializer_list<const Tensor*> tensors);
void need_additional(const Problem& problem, std::initializer_list<const Tensor*> tensors);

inline void* address(int64_t value) { return reinterpret_cast<void*>(value); }

// Throws std::invalid_argument where something that the problem needs, other than output and lse, is missing.
ForwardArgs forward_args(const Problem& problem, const pybind11::object& query, const pybind11::object& key,
                         const pybind11::object& value, int64_t rpb, const pybind11::object& additional_key,
                         const pybind11::object& additional_value, const pybind11::object& output,
                         const pybind11::object& lse);

// The two stages. All throw std::invalid_argument where something that is read or written is missing.
QkArgs qk_args(const Problem& problem, const pybind11::object& query, const pybind11::object& key, int64_t rpb,
               const pybind11::object& additional_key, const pybind11::object& scores);
QkBackwardArgs qk_backward_args(const Problem& problem, const pybind11::object& query, const pybind11::object& key,
                                int64_t rpb, const pybind11::object& additional_key,
                                const pybind11::object& grad_scores, const pybind11::object& grad_query,
                                const pybind11::object& grad_key, int64_t grad_rpb,
                                const pybind11::object& grad_additional_key);
AvArgs av_args(const Problem& problem, const pybind11::object& weights, const pybind11::object& value,
               const pybind11::object& additional_value, const pybind11::object& output);
AvBackwardArgs av_backward_args(const Problem& problem, const pybind11::object& weights, const pybind11::object& value,
                                const pybind11::object& additional_value, const pybind11::object& grad_output,
                                const pybind11::object& grad_weights, const pybind11::object& grad_value,
                                const pybind11::object& grad_additional_value);

}  // namespace natten_core::bindings
