// Starting the forward kernels.
#pragma once

#include "cuda/device/launch.h"
#include "natten_core/problem.h"

namespace natten_core::cuda::box {

// Each in a file of its own, one for every padded head_dim D.
template <class T, int D>
void forward_dim(const ForwardArgs& args, const Launch& launch);

}  // namespace natten_core::cuda::box
