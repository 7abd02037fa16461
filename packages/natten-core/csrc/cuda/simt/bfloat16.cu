#include "cuda/simt/run.cuh"

namespace natten_core::cuda::simt {

template void run_forward<dev::bf16>(const ForwardArgs&, const Launch&);
template void run_backward<dev::bf16>(const BackwardArgs&, void*, const Launch&);

}  // namespace natten_core::cuda::simt
