// The family "dense": a map, or a residue map of a dilated problem, of at most 64 tokens is one attention problem that
// a block of four warps holds as a whole. fp16 and bf16, tensor cores, sm_80 and later; forward, and backward in one
// pass.
#pragma once

#include <cstddef>

#include "cuda/device/launch.h"
#include "natten_core/problem.h"

namespace natten_core::cuda::dense {

// Null, or why this family cannot run the problem.
const char* unsupported(const Problem& problem);
const char* unsupported(const Problem& problem, int architecture);

// The same, with regard to where the tensors lie.
const char* unsupported(const ForwardArgs& args, int architecture);
const char* unsupported(const BackwardArgs& args, int architecture);

void forward(const ForwardArgs& args, const Launch& launch);

// Bytes of scratch that `backward` needs; 0 without a gradient of the bias.
size_t backward_workspace(const BackwardArgs& args);
void backward(const BackwardArgs& args, void* workspace, const Launch& launch);

}  // namespace natten_core::cuda::dense
