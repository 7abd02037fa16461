// The two sides of a window and the weights between them: what every operator of the two-stage form works on.
#pragma once

#include "cuda/device/launch.h"
#include "cuda/simt/tiling.h"

namespace natten_core::cuda::simt {

// Rows of head_dim elements on both sides, whatever they are; head_dim_v is 0.
struct Pair {
  Problem problem;
  Tensor query, key, additional_key, weights;
};

bool is_vectorized(const Pair& pair);
Scratch pair_scratch(const Pair& pair, bool grad_rpb);

// weights = scale * query . key + rpb; `fill` in the slots that a causal window lacks
template <class T>
void run_dots(const Pair& pair, const void* rpb, float fill, const Launch& launch);
// query = scale * sum of weights * key; grad_rpb = sum of weights
template <class T>
void run_combine(const Pair& pair, void* grad_rpb, void* workspace, const Launch& launch);
// key = scale * sum of weights * query
template <class T>
void run_spread(const Pair& pair, void* workspace, const Launch& launch);

}  // namespace natten_core::cuda::simt
