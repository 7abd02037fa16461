// Starting the backward kernels.
#pragma once

#include "cuda/band/backward_params.h"
#include "cuda/band/backward_plan.h"
#include "cuda/device/launch.h"

namespace natten_core::cuda::band {

// Each in files of its own, one for every padded head_dim D.
template <class T, int D>
void query_pass_dim(const BackwardArgs& args, const BackwardPlan& plan, void* workspace, const Launch& launch);
template <class T, int D>
void key_pass_dim(const BackwardArgs& args, const BackwardPlan& plan, void* workspace, const Launch& launch);

// Sums [chunks, entries] over chunks, in an order that depends on their number alone.
void reduce_chunks(const ReduceParams& params, const Launch& launch);

}  // namespace natten_core::cuda::band
