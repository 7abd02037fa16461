// AVX2 and FMA.
#define NATTEN_ISA avx2
#include "../fused/table.h"

namespace natten_core::cpu {

const Kernels kAvx2 = {"avx2", avx2::kScoreRows, avx2::kTyped<float>, avx2::kTyped<double>};

}  // namespace natten_core::cpu
