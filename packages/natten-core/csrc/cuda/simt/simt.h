// The family "simt": neighborhood attention on CUDA cores, for all that the other families do not take: every dtype,
// rank, head_dim, stride, causality, grouped heads, additional keys, any strides in memory, sm_75 and later.
#pragma once

#include <cstddef>

#include "cuda/device/launch.h"
#include "natten_core/problem.h"

namespace natten_core::cuda::simt {

// Null, or for people the reason why it cannot run.
const char* unsupported(const Problem& problem);

// Null where rows are read 16 bytes at a time, or why they are read element by element.
const char* not_vectorized(const ForwardArgs& args);

void forward(const ForwardArgs& args, const Launch& launch);

// Bytes of scratch, aligned to 256, that backward wants; its contents do not matter.
size_t backward_workspace(const BackwardArgs& args);
void backward(const BackwardArgs& args, void* workspace, const Launch& launch);

}  // namespace natten_core::cuda::simt
