#include "cuda/simt/two_stage_run.cuh"

namespace natten_core::cuda::simt {

template void run_dots<dev::bf16>(const Pair&, const void*, float, const Launch&);
template void run_combine<dev::bf16>(const Pair&, void*, void*, const Launch&);
template void run_spread<dev::bf16>(const Pair&, void*, const Launch&);

}  // namespace natten_core::cuda::simt
