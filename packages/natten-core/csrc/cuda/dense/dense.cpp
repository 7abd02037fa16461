// The entry points of the dense family.
#include "cuda/dense/dense.h"

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "cuda/dense/kernels.h"
#include "cuda/device/types.h"

namespace natten_core::cuda::dense {

namespace {

void check(const char* reason) {
  if (reason) throw std::invalid_argument(std::string("the dense kernels do not support ") + reason);
}

Size size_of(const Problem& problem) {
  int64_t tokens = 1;
  for (int axis = 0; axis < kRank; ++axis) tokens *= ceil_div(problem.extent[axis], problem.dilation[axis]);
  const int64_t dim = max_of(problem.head_dim, problem.head_dim_v);
  return {dim <= 32 ? 32 : dim <= 64 ? 64 : 128, tokens <= 56 ? 7 : 8};
}

int64_t maps_of(const Problem& problem) {
  return problem.batch * problem.dilation[kZ] * problem.dilation[kY] * problem.dilation[kX];
}

// Blocks of one head, `blocks` in all or a few less.
int32_t chunks_of(const Problem& problem, int64_t blocks) {
  return static_cast<int32_t>(std::clamp<int64_t>(blocks / problem.heads, 1, maps_of(problem)));
}

ForwardParams params_of(const ForwardArgs& args) {
  const Problem& problem = args.problem;
  ForwardParams params = {};
  params.geometry = geometry_of(problem);
  params.query = view_of(args.query, 2);
  params.key = view_of(args.key, 2);
  params.value = view_of(args.value, 2);
  params.output = view_of(args.output, 2);
  params.lse = view_of(args.lse, 4);
  params.rpb = static_cast<const float*>(args.rpb);
  params.chunks_qk = static_cast<int32_t>(problem.head_dim / 8);
  params.chunks_v = static_cast<int32_t>(problem.head_dim_v / 8);
  params.scale = static_cast<float>(problem.scale);
  return params;
}

// As many blocks as run at once on 132 multiprocessors, but with two maps each to pay for their tables. Sums of partial
// sums depend on the number of blocks, so that it may not depend on the device.
int32_t backward_chunks(const Problem& problem) {
  const int64_t blocks = size_of(problem).dim == 32 ? 396 : 264;
  return chunks_of(problem, min_of(blocks, problem.heads * ceil_div(maps_of(problem), 2)));
}

int64_t bias_entries(const Problem& problem) {
  return (2 * problem.kernel[kZ] - 1) * (2 * problem.kernel[kY] - 1) * (2 * problem.kernel[kX] - 1);
}

bool is_empty(const Problem& problem) { return problem.heads == 0 || maps_of(problem) == 0; }

}  // namespace

void forward(const ForwardArgs& args, const Launch& launch) {
  const Problem& problem = args.problem;
  check(unsupported(args, launch.architecture));
  if (is_empty(problem)) return;
  ForwardParams params = params_of(args);
  const Size size = size_of(problem);
  const int resident = size.dim == 32 ? 4 : size.dim == 64 ? 3 : 2;
  params.geometry.chunks = chunks_of(problem, int64_t{launch.multiprocessors} * resident);
  if (problem.dtype == DType::kBFloat16)
    run_forward<dev::bf16>(params, size, launch);
  else
    run_forward<dev::half>(params, size, launch);
}

size_t backward_workspace(const BackwardArgs& args) {
  const Problem& problem = args.forward.problem;
  if (!args.grad_rpb || is_empty(problem)) return 0;
  return static_cast<size_t>(backward_chunks(problem) * problem.heads * bias_entries(problem)) * sizeof(float);
}

void backward(const BackwardArgs& args, void* workspace, const Launch& launch) {
  const Problem& problem = args.forward.problem;
  check(unsupported(args, launch.architecture));
  if (is_empty(problem)) return;
  BackwardParams params = {};
  params.forward = params_of(args.forward);
  params.forward.geometry.chunks = backward_chunks(problem);
  params.grad_output = view_of(args.grad_output, 2);
  params.grad_query = view_of(args.grad_query, 2);
  params.grad_key = view_of(args.grad_key, 2);
  params.grad_value = view_of(args.grad_value, 2);
  params.grad_lse = view_of(args.grad_lse, 4);
  params.partial = args.grad_rpb ? static_cast<float*>(workspace) : nullptr;
  if (problem.dtype == DType::kBFloat16)
    run_backward<dev::bf16>(params, size_of(problem), launch);
  else
    run_backward<dev::half>(params, size_of(problem), launch);
  if (!args.grad_rpb) return;
  ReduceParams reduce = {};
  reduce.partial = params.partial;
  reduce.sum = static_cast<float*>(args.grad_rpb);
  reduce.chunks = params.forward.geometry.chunks;
  reduce.count = static_cast<int32_t>(problem.heads * bias_entries(problem));
  run_reduce(reduce, launch);
}

}  // namespace natten_core::cuda::dense
