// The table of general kernels of the instruction set that includes this.
#pragma once

#include "two_stage.h"

namespace natten_core::cpu::NATTEN_ISA::general {

template <class T>
constexpr GeneralKernels kTable = {scratch_bytes<T>, forward<T>, backward<T>,   qk<T>,
                                   qk_backward<T>,   av<T>,      av_backward<T>};

}  // namespace natten_core::cpu::NATTEN_ISA::general
