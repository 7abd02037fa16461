// The table of kernels of the instruction set that includes this.
#pragma once

#include "../kernels.h"
#include "backward.h"
#include "forward.h"

namespace natten_core::cpu::NATTEN_ISA {

// E: what is multiplied; S: what is stored.
template <class E, class S>
constexpr TypedKernels kTyped = {kLanes<E>, forward_scratch_bytes<E>, backward_scratch_bytes<E>, forward<E, S>,
                                 backward<E, S>};

}  // namespace natten_core::cpu::NATTEN_ISA
