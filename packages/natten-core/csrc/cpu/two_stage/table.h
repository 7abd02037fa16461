// The table of two-stage kernels of the instruction set that includes this.
#pragma once

#include "stages.h"

namespace natten_core::cpu::NATTEN_ISA::two_stage {

// E: what is multiplied; S: what is stored.
template <class E, class S>
constexpr TwoStageKernels kTable = {kLanes<E>,         scratch_bytes<E>, qk<E, S>,
                                    qk_backward<E, S>, av<E, S>,         av_backward<E, S>};

}  // namespace natten_core::cpu::NATTEN_ISA::two_stage
