// Whatever vectors the target's baseline has: SSE2 on x86-64, NEON on aarch64.
#define NATTEN_ISA generic
#include "../fused/table.h"
#include "../two_stage/table.h"

namespace natten_core::cpu {

const Kernels kGeneric = {"generic",
                          generic::kScoreRows,
                          generic::kTyped<float, float>,
                          generic::kTyped<double, double>,
                          generic::kTyped<float, generic::Half>,
                          generic::kTyped<float, generic::BFloat16>,
                          generic::two_stage::kTable<float, float>,
                          generic::two_stage::kTable<double, double>,
                          generic::two_stage::kTable<float, generic::Half>,
                          generic::two_stage::kTable<float, generic::BFloat16>};

}  // namespace natten_core::cpu
