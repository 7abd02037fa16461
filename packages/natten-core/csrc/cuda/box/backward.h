// Starting the backward kernels.
#pragma once

#include "cuda/box/backward_plan.h"
#include "cuda/device/launch.h"

namespace natten_core::cuda::box {

// Each in files of its own, one for every padded head_dim D.
template <class T, int D>
void query_pass_dim(const BackwardArgs& args, const BackwardPlan& plan, void* workspace, const Launch& launch);
template <class T, int D>
void key_pass_dim(const BackwardArgs& args, const BackwardPlan& plan, void* workspace, const Launch& launch);

}  // namespace natten_core::cuda::box
