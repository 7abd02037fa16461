// The family "box": maps of one to three axes, 16-bit floats, tensor cores; forward. A block takes a box of queries in
// one plane, and boxes of keys stream by, one for each plane of the window. See docs/kernels/cuda-band.md.
#pragma once

#include "cuda/device/launch.h"
#include "natten_core/problem.h"

namespace natten_core::cuda::box {

// Null, or why these kernels cannot run the problem, for people.
const char* unsupported(const Problem& problem);  // on sm_80
const char* unsupported(const Problem& problem, int architecture);

void forward(const ForwardArgs& args, const Launch& launch);

}  // namespace natten_core::cuda::box
