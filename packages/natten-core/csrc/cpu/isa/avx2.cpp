// AVX2 and FMA.
#define NATTEN_ISA avx2
#include "../fused/table.h"
#include "../two_stage/table.h"

namespace natten_core::cpu {

const Kernels kAvx2 = {"avx2",
                       avx2::kScoreRows,
                       avx2::kTyped<float, float>,
                       avx2::kTyped<double, double>,
                       avx2::kTyped<float, avx2::Half>,
                       avx2::kTyped<float, avx2::BFloat16>,
                       avx2::two_stage::kTable<float, float>,
                       avx2::two_stage::kTable<double, double>,
                       avx2::two_stage::kTable<float, avx2::Half>,
                       avx2::two_stage::kTable<float, avx2::BFloat16>};

}  // namespace natten_core::cpu
