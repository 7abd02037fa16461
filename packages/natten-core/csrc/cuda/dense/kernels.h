// The kernels' instantiations, one file for each dtype and direction.
#pragma once

#include "cuda/dense/params.h"
#include "cuda/device/launch.h"

namespace natten_core::cuda::dense {

// Which instantiation: head_dim 32, 64 or 128, and room for 56 or 64 tokens.
struct Size {
  int dim, key_tiles;
};

// T: half, bf16 or tf32.
template <class T>
void run_forward(const ForwardParams& params, Size size, const Launch& launch);

template <class T>
void run_backward(const BackwardParams& params, Size size, const Launch& launch);

void run_reduce(const ReduceParams& params, const Launch& launch);

}  // namespace natten_core::cuda::dense
