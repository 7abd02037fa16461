// What the translation units of this family, one per dtype, hold.
#pragma once

#include "cuda/device/launch.h"
#include "cuda/simt/params.h"

namespace natten_core::cuda::simt {

template <class T>
void run_forward(const ForwardArgs& args, const Launch& launch);
template <class T>
void run_backward(const BackwardArgs& args, void* workspace, const Launch& launch);

}  // namespace natten_core::cuda::simt
