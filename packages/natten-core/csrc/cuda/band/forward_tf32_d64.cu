#include "cuda/band/forward_launch.cuh"

namespace natten_core::cuda::band {
template void forward_dim<dev::tf32, 64>(const ForwardArgs&, const Launch&);
}
