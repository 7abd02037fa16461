// The family "band": maps of two axes, 16-bit floats, tensor cores; plain C++, for whoever plans and dispatches.
#pragma once

#include <cstddef>

#include "cuda/device/launch.h"
#include "natten_core/problem.h"

namespace natten_core::cuda::band {

// Null, or why these kernels cannot run the problem, for people.
const char* unsupported(const Problem& problem);  // on sm_80
const char* unsupported(const Problem& problem, int architecture);

void forward(const ForwardArgs& args, const Launch& launch);

// Bytes of scratch that `backward` needs.
size_t backward_workspace(const BackwardArgs& args);
void backward(const BackwardArgs& args, void* workspace, const Launch& launch);

}  // namespace natten_core::cuda::band
