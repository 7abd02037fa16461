// The table of kernels of the instruction set that includes this.
#pragma once

#include "../kernels.h"
#include "backward.h"
#include "forward.h"

namespace natten_core::cpu::NATTEN_ISA {

// T: what is computed with; S: what is stored.
template <class T, class S>
constexpr TypedKernels kTyped = {kLanes<T>, forward_scratch_bytes<T>, backward_scratch_bytes<T>, forward<T, S>,
                                 backward<T, S>};

}  // namespace natten_core::cpu::NATTEN_ISA
