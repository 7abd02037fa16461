#include "cuda/box/backward_query_launch.cuh"

namespace natten_core::cuda::box {
template void query_pass_dim<dev::tf32, 64>(const BackwardArgs&, const BackwardPlan&, void*, const Launch&);
}
