#include "cuda/simt/two_stage_run.cuh"

namespace natten_core::cuda::simt {

template void run_dots<float>(const Pair&, const void*, float, const Launch&);
template void run_combine<float>(const Pair&, void*, void*, const Launch&);
template void run_spread<float>(const Pair&, void*, const Launch&);

}  // namespace natten_core::cuda::simt
