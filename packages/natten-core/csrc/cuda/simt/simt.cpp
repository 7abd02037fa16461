#include "cuda/simt/simt.h"

#include "cuda/simt/element.h"
#include "cuda/simt/kernels.h"
#include "cuda/simt/tiling.h"

namespace natten_core::cuda::simt {
const char* not_vectorized(const ForwardArgs& args) {
  if (is_vectorized(args)) return nullptr;
  const Problem& problem = args.problem;
  return is_vectorized(problem, problem.head_dim) && is_vectorized(problem, problem.head_dim_v)
             ? "rows that do not begin at multiples of 16 bytes"
             : "rows that are no multiple of 16 bytes, or longer than 256 elements";
}

void forward(const ForwardArgs& args, const Launch& launch) {
  with_element(args.problem.dtype, [&](auto element) { run_forward<decltype(element)>(args, launch); });
}

size_t backward_workspace(const BackwardArgs& args) { return lay_out_scratch(args, is_vectorized(args)).total; }

void backward(const BackwardArgs& args, void* workspace, const Launch& launch) {
  with_element(args.forward.problem.dtype,
               [&](auto element) { run_backward<decltype(element)>(args, workspace, launch); });
}

}  // namespace natten_core::cuda::simt
