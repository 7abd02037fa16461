// What the band family can run. No CUDA needed.
#include "cuda/band/backward_plan.h"
#include "cuda/band/band.h"

#include <initializer_list>

namespace natten_core::cuda::band {

const char* unsupported(const Problem& problem) { return unsupported(problem, Launch{}.architecture); }

const char* unsupported(const Problem& problem, int architecture) {
  if (problem.is_double()) return "fp64";
  const bool single = problem.dtype == DType::kFloat32;
  if (single && problem.head_dim > 64) return "fp32 with head_dim above 64";
  if (single && problem.head_dim > 32 && max_of(problem.kernel[kY], problem.kernel[kX]) > 9)
    return "fp32 with head_dim above 32 and a kernel above 9";
  if (single && problem.head_dim % 4) return "fp32 with head_dim not a multiple of 4";
  if (problem.head_dim > 128) return "head_dim above 128";
  if (!single && problem.head_dim % 8) return "head_dim not a multiple of 8";
  if (problem.head_dim_v != problem.head_dim) return "values of another head_dim than keys";
  if (problem.additional) return "additional keys";
  if (problem.extent[kZ] > 1) return "maps of three axes";
  if (!(problem.scale >= 1e-30)) return "a scale below 1e-30";  // biases are divided by it
  for (int axis = kY; axis <= kX; ++axis) {
    if (problem.stride[axis] > 1) return "stride above 1";
    if (problem.causal[axis]) return "a causal axis";
    if (problem.kernel[axis] > 13) return "a kernel above 13";
    if (problem.extent[axis] >= INT64_C(1) << 24) return "maps of 2^24 rows or columns";
  }
  const int64_t residues = problem.dilation[kY] * problem.dilation[kX];
  if (residues * ceil_div(ceil_div(problem.extent[kX], problem.dilation[kX]), kTileX) > 8192)
    return "a map of so many columns, or so large a dilation";
  if (problem.batch >= INT64_C(1) << 30 || problem.heads >= 1 << 16) return "2^30 samples or more";
  const int limit = shared_limit(architecture);
  const PassPlan by_queries = plan_query_pass(problem, true, limit), by_keys = plan_key_pass(problem, limit);
  if (by_keys.tiles > 3) return "keys that more than 24 columns of queries see";
  const int64_t forward = least_forward_shared(problem);
  if (max_of(max_of(by_queries.shared, by_keys.shared), forward) > limit)
    return "a kernel this large with this head_dim";
  return nullptr;
}

}  // namespace natten_core::cuda::band
