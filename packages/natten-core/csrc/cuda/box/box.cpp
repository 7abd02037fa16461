// The entry points of the box family.
#include "cuda/box/box.h"

#include <stdexcept>
#include <string>

#include "cuda/band/backward.h"
#include "cuda/box/backward.h"
#include "cuda/box/forward.h"
#include "cuda/device/types.h"

namespace natten_core::cuda::box {
namespace {

void check(const char* reason) {
  if (reason) throw std::invalid_argument(std::string("the box kernels do not support ") + reason);
}

bool is_empty(const Problem& problem) { return problem.batch == 0 || problem.heads == 0; }

template <class T>
void run_forward(const ForwardArgs& args, const Launch& launch) {
  switch (padded(args.problem.head_dim)) {
    case 32: return forward_dim<T, 32>(args, launch);
    case 64: return forward_dim<T, 64>(args, launch);
    default: return forward_dim<T, 128>(args, launch);
  }
}

template <class T, int D>
void run_passes(const BackwardArgs& args, const BackwardPlan& plan, void* workspace, const Launch& launch) {
  query_pass_dim<T, D>(args, plan, workspace, launch);  // finds what the other reads
  key_pass_dim<T, D>(args, plan, workspace, launch);
}

template <class T>
void run_backward(const BackwardArgs& args, const BackwardPlan& plan, void* workspace, const Launch& launch) {
  switch (padded(args.forward.problem.head_dim)) {
    case 32: return run_passes<T, 32>(args, plan, workspace, launch);
    case 64: return run_passes<T, 64>(args, plan, workspace, launch);
    default: return run_passes<T, 128>(args, plan, workspace, launch);
  }
}

}  // namespace

void forward(const ForwardArgs& args, const Launch& launch) {
  check(unsupported(args.problem, launch.architecture));
  if (is_empty(args.problem)) return;
  if (args.problem.dtype == DType::kBFloat16)
    run_forward<dev::bf16>(args, launch);
  else
    run_forward<dev::half>(args, launch);
}

size_t backward_workspace(const BackwardArgs& args) {
  if (is_empty(args.forward.problem)) return 0;
  int64_t bytes = 0;  // of whichever device needs most
  for (int architecture : {80, 86, 90})  // of every limit of shared memory
    if (!unsupported(args, architecture)) bytes = max_of(bytes, plan_backward(args, {nullptr, architecture, 1}).bytes);
  return size_t(bytes);
}

void backward(const BackwardArgs& args, void* workspace, const Launch& launch) {
  const Problem& problem = args.forward.problem;
  check(unsupported(args, launch.architecture));
  if (is_empty(problem)) return;
  const BackwardPlan plan = plan_backward(args, launch);
  if (problem.dtype == DType::kBFloat16)
    run_backward<dev::bf16>(args, plan, workspace, launch);
  else
    run_backward<dev::half>(args, plan, workspace, launch);
  if (!args.grad_rpb) return;
  const int64_t entries = problem.heads * relative_positions(plan.query.cut.kernel);
  band::reduce_chunks(
      {plan.chunks_of_rpb(workspace), static_cast<float*>(args.grad_rpb), int(plan.chunks), int(entries)}, launch);
}

}  // namespace natten_core::cuda::box
