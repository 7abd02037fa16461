#include "cuda/simt/simt.h"

#include "cuda/simt/element.h"
#include "cuda/simt/kernels.h"
#include "cuda/simt/tiling.h"

namespace natten_core::cuda::simt {
const char* access(const ForwardArgs& args) { return is_vectorized(args) ? "16-byte" : "element"; }

void forward(const ForwardArgs& args, const Launch& launch) {
  with_element(args.problem.dtype, [&](auto element) { run_forward<decltype(element)>(args, launch); });
}

size_t backward_workspace(const BackwardArgs& args) { return lay_out_scratch(args, is_vectorized(args)).total; }

void backward(const BackwardArgs& args, void* workspace, const Launch& launch) {
  with_element(args.forward.problem.dtype,
               [&](auto element) { run_backward<decltype(element)>(args, workspace, launch); });
}

}  // namespace natten_core::cuda::simt
