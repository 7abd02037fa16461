#include "cuda/box/forward_launch.cuh"

namespace natten_core::cuda::box {
template void forward_dim<dev::bf16, 128>(const ForwardArgs&, const Launch&);
}
