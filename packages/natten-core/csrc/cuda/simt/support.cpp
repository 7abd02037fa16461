// What the simt family can run. No CUDA needed.
#include <climits>

#include "cuda/simt/simt.h"
#include "cuda/simt/tiling.h"

namespace natten_core::cuda::simt {

const char* unsupported(const Problem& problem) {
  int64_t tokens = problem.batch;
  for (int axis = 0; axis < kRank; ++axis) tokens *= problem.extent[axis] + problem.dilation[axis] * kMaxLanes;
  if (tokens > INT_MAX) return "more tokens than fit 32-bit numbers";
  if (problem.heads > 65535) return "more than 65535 heads";
  return nullptr;
}

}  // namespace natten_core::cuda::simt
