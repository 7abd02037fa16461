// The cpu kernels for Python.
#pragma once

#include <pybind11/pybind11.h>

namespace natten_core::bindings {

void add_cpu_kernels(pybind11::module_& module);

}  // namespace natten_core::bindings
