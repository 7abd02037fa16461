// Starting the forward kernels.
#pragma once

#include "cuda/band/cut.h"
#include "cuda/device/launch.h"

namespace natten_core::cuda::band {

// One for every padded head_dim D, each in a file of its own.
template <class T, int D>
void forward_dim(const ForwardArgs& args, const Launch& launch);

}  // namespace natten_core::cuda::band
