// The cuda kernels for Python.
#pragma once

#include <pybind11/pybind11.h>

namespace natten_core::bindings {

// What every build has: problems and the plan.
void add_cuda_plan(pybind11::module_& module);
// What builds with CUDA have: devices and kernels.
void add_cuda_kernels(pybind11::module_& module);

}  // namespace natten_core::bindings
