// The entry points of the dense family.
#include "cuda/dense/dense.h"

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "cuda/dense/kernels.h"
#include "cuda/dense/shape.h"
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

// Calls `work` with a number of the type that the kernels multiply.
template <class Work>
void with_type(const Problem& problem, const Work& work) {
  if (problem.dtype == DType::kBFloat16) return work(dev::bf16{});
  if (problem.dtype == DType::kFloat16) return work(dev::half{});
  work(dev::tf32{});
}

// That a multiprocessor holds at a time.
template <class T>
int forward_blocks(int dim, int limit) {
  if (dim == 32) return ForwardShape<T, 32>::blocks(limit);
  return dim == 64 ? ForwardShape<T, 64>::blocks(limit) : ForwardShape<T, 128>::blocks(limit);
}

ForwardParams params_of(const ForwardArgs& args) {
  const Problem& problem = args.problem;
  const int bytes = bytes_of(problem);
  ForwardParams params = {};
  params.geometry = geometry_of(problem);
  params.query = view_of(args.query, bytes);
  params.key = view_of(args.key, bytes);
  params.value = view_of(args.value, bytes);
  params.output = view_of(args.output, bytes);
  params.lse = view_of(args.lse, 4);
  params.rpb = static_cast<const float*>(args.rpb);
  params.chunks_qk = static_cast<int32_t>(problem.head_dim * bytes / 16);
  params.chunks_v = static_cast<int32_t>(problem.head_dim_v * bytes / 16);
  params.scale = static_cast<float>(problem.scale);
  return params;
}

// As many blocks as run at once on 132 multiprocessors, but with two maps each to pay for their tables. Sums of partial
// sums depend on the number of blocks, so that it may not depend on the device.
int32_t backward_chunks(const Problem& problem) {
  const int dim = size_of(problem).dim;
  const int64_t blocks = dim == 32 ? 396 : dim == 128 && problem.dtype == DType::kFloat32 ? 132 : 264;
  return chunks_of(problem, min_of(blocks, problem.heads * ceil_div(maps_of(problem), 2)));
}

int64_t bias_entries(const Problem& problem) {
  return (2 * problem.kernel[kZ] - 1) * (2 * problem.kernel[kY] - 1) * (2 * problem.kernel[kX] - 1);
}

}  // namespace

void forward(const ForwardArgs& args, const Launch& launch) {
  const Problem& problem = args.problem;
  check(unsupported(args, launch.architecture));
  if (problem.is_empty()) return;
  ForwardParams params = params_of(args);
  const Size size = size_of(problem);
  with_type(problem, [&](auto type) {
    using T = decltype(type);
    const int resident = forward_blocks<T>(size.dim, shared_limit(launch.architecture));
    params.geometry.chunks = chunks_of(problem, int64_t{launch.multiprocessors} * resident);
    run_forward<T>(params, size, launch);
  });
}

size_t backward_workspace(const BackwardArgs& args) {
  const Problem& problem = args.forward.problem;
  if (!args.grad_rpb || problem.is_empty()) return 0;
  return static_cast<size_t>(backward_chunks(problem) * problem.heads * bias_entries(problem)) * sizeof(float);
}

void backward(const BackwardArgs& args, void* workspace, const Launch& launch) {
  const Problem& problem = args.forward.problem;
  check(unsupported(args, launch.architecture));
  if (problem.is_empty()) return;
  BackwardParams params = {};
  params.forward = params_of(args.forward);
  params.forward.geometry.chunks = backward_chunks(problem);
  const int bytes = bytes_of(problem);
  params.grad_output = view_of(args.grad_output, bytes);
  params.grad_query = view_of(args.grad_query, bytes);
  params.grad_key = view_of(args.grad_key, bytes);
  params.grad_value = view_of(args.grad_value, bytes);
  params.grad_lse = view_of(args.grad_lse, 4);
  params.partial = args.grad_rpb ? static_cast<float*>(workspace) : nullptr;
  with_type(problem, [&](auto type) { run_backward<decltype(type)>(params, size_of(problem), launch); });
  if (!args.grad_rpb) return;
  ReduceParams reduce = {};
  reduce.partial = params.partial;
  reduce.sum = static_cast<float*>(args.grad_rpb);
  reduce.chunks = params.forward.geometry.chunks;
  reduce.count = static_cast<int32_t>(problem.heads * bias_entries(problem));
  run_reduce(reduce, launch);
}

}  // namespace natten_core::cuda::dense
