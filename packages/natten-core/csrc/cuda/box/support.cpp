// What the box family can run. No CUDA needed.
#include "cuda/box/backward_plan.h"
#include "cuda/box/box.h"

namespace natten_core::cuda::box {
namespace {

const char* reason_of(const Plan& plan, int architecture) {
  if (plan.shared > shared_limit(architecture)) return "a kernel this large with this head_dim";
  if (plan.blocks > 65535) return "a map this large, or so large a dilation";
  return nullptr;
}

}  // namespace

const char* unsupported(const Problem& problem) { return unsupported(problem, Launch{}.architecture); }

const char* unsupported(const Problem& problem, int architecture) {
  if (problem.is_double()) return "fp64";
  const bool single = is_single(problem);
  if (single && problem.head_dim > 64) return "fp32 with head_dim above 64";
  if (single && problem.head_dim > 32 && problem.kernel[kX] > kMostNarrowKernel)
    return "fp32 with head_dim above 32 and a kernel above 8 on the last axis";
  if (single && problem.head_dim % 4) return "fp32 with head_dim not a multiple of 4";
  if (problem.head_dim > 128) return "head_dim above 128";
  if (!single && problem.head_dim % 8) return "head_dim not a multiple of 8";
  if (problem.head_dim_v != problem.head_dim) return "values of another head_dim than keys";
  if (problem.additional) return "additional keys";
  if (!(problem.scale >= 1e-30)) return "a scale below 1e-30";  // biases are divided by it
  for (int axis = 0; axis < kRank; ++axis) {
    if (problem.stride[axis] > 1) return "stride above 1";
    if (problem.causal[axis]) return "a causal axis";
    if (problem.kernel[axis] > kMostKernel) return "a kernel above 13";
    if (problem.extent[axis] >= INT64_C(1) << 24) return "axes of 2^24 tokens";
  }
  if (problem.batch * problem.extent[kZ] >= INT64_C(1) << 30 || problem.heads >= 1 << 16)
    return "2^30 planes or 65536 heads";
  const Plan plan = plan_forward(problem, Launch{nullptr, architecture, 1});
  return reason_of(plan, architecture);
}

const char* unsupported(const BackwardArgs& args, int architecture) {
  const Problem& problem = args.forward.problem;
  if (const char* why = unsupported(problem, architecture)) return why;
  const BackwardPlan plan = plan_backward(args, Launch{nullptr, architecture, 1});
  if (const char* why = reason_of(plan.query, architecture)) return why;
  return reason_of(plan.key, architecture);
}

}  // namespace natten_core::cuda::box
