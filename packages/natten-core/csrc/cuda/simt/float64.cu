#include "cuda/simt/run.cuh"

namespace natten_core::cuda::simt {

template void run_forward<double>(const ForwardArgs&, const Launch&);
template void run_backward<double>(const BackwardArgs&, void*, const Launch&);

}  // namespace natten_core::cuda::simt
