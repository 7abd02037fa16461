// Whatever vectors the target's baseline has: SSE2 on x86-64, NEON on aarch64.
#define NATTEN_ISA generic
#include "../fused/table.h"

namespace natten_core::cpu {

const Kernels kGeneric = {"generic", generic::kScoreRows, generic::kTyped<float>, generic::kTyped<double>};

}  // namespace natten_core::cpu
