// AVX-512 F, BW, DQ and VL.
#define NATTEN_ISA avx512
#include "../fused/table.h"
#include "../general/table.h"

namespace natten_core::cpu {

const Kernels kAvx512 = {"avx512",
                         avx512::kScoreRows,
                         avx512::kTyped<float, float>,
                         avx512::kTyped<double, double>,
                         avx512::kTyped<float, avx512::Half>,
                         avx512::kTyped<float, avx512::BFloat16>,
                         avx512::general::kTable<float>,
                         avx512::general::kTable<double>};

}  // namespace natten_core::cpu
