#include "cuda/box/forward_launch.cuh"

namespace natten_core::cuda::box {
template void forward_dim<dev::tf32, 32>(const ForwardArgs&, const Launch&);
}
