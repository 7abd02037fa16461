// AVX-512 F, BW, DQ and VL.
#define NATTEN_ISA avx512
#include "../fused/table.h"
#include "../two_stage/table.h"

namespace natten_core::cpu {

const Kernels kAvx512 = {"avx512",
                         avx512::kScoreRows,
                         avx512::kTyped<float, float>,
                         avx512::kTyped<double, double>,
                         avx512::kTyped<float, avx512::Half>,
                         avx512::kTyped<float, avx512::BFloat16>,
                         avx512::two_stage::kTable<float, float>,
                         avx512::two_stage::kTable<double, double>,
                         avx512::two_stage::kTable<float, avx512::Half>,
                         avx512::two_stage::kTable<float, avx512::BFloat16>};

}  // namespace natten_core::cpu
