#include "cuda/simt/run.cuh"

namespace natten_core::cuda::simt {

template void run_forward<dev::half>(const ForwardArgs&, const Launch&);
template void run_backward<dev::half>(const BackwardArgs&, void*, const Launch&);

}  // namespace natten_core::cuda::simt
