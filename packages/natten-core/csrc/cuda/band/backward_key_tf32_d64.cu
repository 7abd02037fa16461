#include "cuda/band/backward_key_launch.cuh"

namespace natten_core::cuda::band {
template void key_pass_dim<dev::tf32, 64>(const BackwardArgs&, const BackwardPlan&, void*, const Launch&);
}
