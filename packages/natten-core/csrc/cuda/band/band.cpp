// The entry points of the band family.
#include "cuda/band/band.h"

#include <stdexcept>
#include <string>
#include <type_traits>

#include "cuda/band/backward.h"
#include "cuda/band/forward.h"
#include "cuda/device/types.h"

namespace natten_core::cuda::band {

namespace {

void check(const Problem& problem, const Launch& launch) {
  if (const char* reason = unsupported(problem, launch.architecture))
    throw std::invalid_argument(std::string("the band kernels do not support ") + reason);
}

template <int D>
using Dim = std::integral_constant<int, D>;

// Calls `run` with the element type of the kernels and the head_dim that they are made for.
template <class Run>
void for_kernels(const Problem& problem, const Run& run) {
  const auto of_dim = [&](auto element) {
    using T = decltype(element);
    const int dim = padded(problem);
    if constexpr (dev::is_16_bit<T>) {
      if (dim == 16) return run(element, Dim<16>{});
      if (dim == 128) return run(element, Dim<128>{});
    }
    return dim == 32 ? run(element, Dim<32>{}) : run(element, Dim<64>{});
  };
  if (problem.dtype == DType::kBFloat16) return of_dim(dev::bf16{});
  if (problem.dtype == DType::kFloat16) return of_dim(dev::half{});
  of_dim(dev::tf32{});
}

}  // namespace

void forward(const ForwardArgs& args, const Launch& launch) {
  check(args.problem, launch);
  if (args.problem.is_empty()) return;
  for_kernels(args.problem, [&](auto element, auto dim) { forward_dim<decltype(element), dim>(args, launch); });
}

size_t backward_workspace(const BackwardArgs& args) {
  if (args.forward.problem.is_empty()) return 0;
  return most_bytes([&](int architecture) { return plan_backward(args, shared_limit(architecture), 1).bytes; });
}

void backward(const BackwardArgs& args, void* workspace, const Launch& launch) {
  const Problem& problem = args.forward.problem;
  check(problem, launch);
  if (problem.is_empty()) return;
  const BackwardPlan plan = plan_backward(args, shared_limit(launch.architecture), launch.multiprocessors);
  for_kernels(problem, [&](auto element, auto dim) {
    query_pass_dim<decltype(element), dim>(args, plan, workspace, launch);  // finds what the other reads
    key_pass_dim<decltype(element), dim>(args, plan, workspace, launch);
  });
  if (!args.grad_rpb) return;
  const int64_t entries = problem.heads * (2 * problem.kernel[kY] - 1) * (2 * problem.kernel[kX] - 1);
  reduce_chunks({reinterpret_cast<const float*>(static_cast<char*>(workspace) + plan.grad_rpb),
                 static_cast<float*>(args.grad_rpb), int(plan.chunks), int(entries)},
                launch);
}

}  // namespace natten_core::cuda::band
