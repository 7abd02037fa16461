// The family "box": maps of one to three axes, 16-bit floats and fp32 in TF32, tensor cores. A block takes a box of
// queries (keys) in one plane, and boxes of keys (queries) stream by, one for each plane that is related to it. See
// docs/kernels/cuda-band.md.
#pragma once

#include <cstddef>

#include "cuda/device/launch.h"
#include "natten_core/problem.h"

namespace natten_core::cuda::box {

// Null, or why these kernels cannot run the forward of a problem, for people.
const char* unsupported(const Problem& problem);  // on sm_80
const char* unsupported(const Problem& problem, int architecture);
// Null, or why not the backward, which may need more shared memory.
const char* unsupported(const BackwardArgs& args, int architecture);

void forward(const ForwardArgs& args, const Launch& launch);

// Bytes of scratch that `backward` needs.
size_t backward_workspace(const BackwardArgs& args);
void backward(const BackwardArgs& args, void* workspace, const Launch& launch);

}  // namespace natten_core::cuda::box
