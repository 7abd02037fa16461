// The table of two-stage kernels of the instruction set that includes this.
#pragma once

#include "stages.h"

namespace natten_core::cpu::NATTEN_ISA::two_stage {

// T: what is computed with; S: what is stored.
template <class T, class S>
constexpr TwoStageKernels kTable = {kLanes<T>,         scratch_bytes<T>, qk<T, S>,
                                    qk_backward<T, S>, av<T, S>,         av_backward<T, S>};

}  // namespace natten_core::cpu::NATTEN_ISA::two_stage
