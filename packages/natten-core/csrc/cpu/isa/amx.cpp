// AMX, on top of AVX-512 with bf16: the fused kernels of bf16 tensors. The other ones are those of AVX-512.
#define NATTEN_ISA amx
#include "../amx/backward.h"
#include "../amx/forward.h"
#include "../kernels.h"

namespace natten_core::cpu {

const TypedKernels kAmxBf16Tiles = {amx::kTileLanes, amx::tile_forward_scratch_bytes, amx::tile_backward_scratch_bytes,
                                    amx::tile_forward, amx::tile_backward};

}  // namespace natten_core::cpu
