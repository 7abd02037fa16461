#include "cuda/box/forward_launch.cuh"

namespace natten_core::cuda::box {
template void forward_dim<dev::half, 32>(const ForwardArgs&, const Launch&);
}
