#include "cuda/band/forward_launch.cuh"

namespace natten_core::cuda::band {
template void forward_dim<dev::bf16, 128>(const ForwardArgs&, const Launch&);
}
