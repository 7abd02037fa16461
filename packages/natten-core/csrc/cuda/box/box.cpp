// The entry points of the box family.
#include "cuda/box/box.h"

#include <stdexcept>
#include <string>

#include "cuda/box/forward.h"
#include "cuda/box/plan.h"
#include "cuda/device/types.h"

namespace natten_core::cuda::box {
namespace {

template <class T>
void run_forward(const ForwardArgs& args, const Launch& launch) {
  switch (padded(args.problem.head_dim)) {
    case 32: return forward_dim<T, 32>(args, launch);
    case 64: return forward_dim<T, 64>(args, launch);
    default: return forward_dim<T, 128>(args, launch);
  }
}

}  // namespace

void forward(const ForwardArgs& args, const Launch& launch) {
  if (const char* reason = unsupported(args.problem, launch.architecture))
    throw std::invalid_argument(std::string("the box kernels do not support ") + reason);
  if (args.problem.batch == 0 || args.problem.heads == 0) return;
  if (args.problem.dtype == DType::kBFloat16)
    run_forward<dev::bf16>(args, launch);
  else
    run_forward<dev::half>(args, launch);
}

}  // namespace natten_core::cuda::box
