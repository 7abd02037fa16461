// Whatever vectors the target's baseline has: SSE2 on x86-64, NEON on aarch64.
#define NATTEN_ISA generic
#include "../fused/table.h"
#include "../general/table.h"

namespace natten_core::cpu {

const Kernels kGeneric = {"generic",
                          generic::kScoreRows,
                          generic::kTyped<float, float>,
                          generic::kTyped<double, double>,
                          generic::kTyped<float, generic::Half>,
                          generic::kTyped<float, generic::BFloat16>,
                          generic::general::kTable<float>,
                          generic::general::kTable<double>};

}  // namespace natten_core::cpu
