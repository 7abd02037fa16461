#include "cuda/box/backward_key_launch.cuh"

namespace natten_core::cuda::box {
template void key_pass_dim<dev::tf32, 32>(const BackwardArgs&, const BackwardPlan&, void*, const Launch&);
}
