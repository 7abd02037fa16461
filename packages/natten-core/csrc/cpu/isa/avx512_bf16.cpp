// AVX-512 with products of bf16 by pairs: the kernels of bf16 tensors. The other ones are those of AVX-512.
#define NATTEN_ISA avx512_bf16
#include "../fused/table.h"
#include "../two_stage/table.h"

namespace natten_core::cpu {

const TypedKernels kAvx512Bf16Pairs = avx512_bf16::kTyped<avx512_bf16::Pair, avx512_bf16::BFloat16>;
const TwoStageKernels kAvx512Bf16PairsTwoStage =
    avx512_bf16::two_stage::kTable<avx512_bf16::Pair, avx512_bf16::BFloat16>;

}  // namespace natten_core::cpu
