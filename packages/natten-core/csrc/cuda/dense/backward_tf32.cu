#include "cuda/dense/backward.cuh"
#include "cuda/dense/kernels.h"

namespace natten_core::cuda::dense {

template <>
void run_backward<dev::tf32>(const BackwardParams& params, Size size, const Launch& launch) {
  const bool small = size.key_tiles == 7;
  if (size.dim == 32)
    (small ? start_backward<dev::tf32, 32, 7> : start_backward<dev::tf32, 32, 8>)(params, launch);
  else if (size.dim == 64)
    (small ? start_backward<dev::tf32, 64, 7> : start_backward<dev::tf32, 64, 8>)(params, launch);
  else
    start_backward<dev::tf32, 128, 8>(params, launch);
}

}  // namespace natten_core::cuda::dense
