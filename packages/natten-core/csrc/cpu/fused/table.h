// The table of kernels of the instruction set that includes this.
#pragma once

#include "../kernels.h"
#include "backward.h"
#include "forward.h"

namespace natten_core::cpu::NATTEN_ISA {

template <class T>
constexpr TypedKernels kTyped = {kLanes<T>, forward_scratch_bytes<T>, backward_scratch_bytes<T>, forward<T>,
                                 backward<T>};

}  // namespace natten_core::cpu::NATTEN_ISA
