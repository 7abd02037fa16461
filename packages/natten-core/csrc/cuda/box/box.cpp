// The entry points of the box family.
#include "cuda/box/box.h"

#include <stdexcept>
#include <string>
#include <type_traits>

#include "cuda/band/backward.h"
#include "cuda/box/backward.h"
#include "cuda/box/forward.h"
#include "cuda/device/types.h"

namespace natten_core::cuda::box {
namespace {

void check(const char* reason) {
  if (reason) throw std::invalid_argument(std::string("the box kernels do not support ") + reason);
}

// Calls `use` with a value of the elements' type, and with the head_dim that kernels are made for as a constant.
template <class Use>
void for_kernels(const Problem& problem, const Use& use) {
  const auto of = [&](auto element) {
    const int dim = padded(problem);
    if constexpr (dev::is_16_bit<decltype(element)>) {
      if (dim == 128) return use(element, std::integral_constant<int, 128>{});
    }
    return dim == 32 ? use(element, std::integral_constant<int, 32>{})
                     : use(element, std::integral_constant<int, 64>{});
  };
  if (problem.dtype == DType::kBFloat16) return of(dev::bf16{});
  if (problem.dtype == DType::kFloat16) return of(dev::half{});
  of(dev::tf32{});
}

}  // namespace

void forward(const ForwardArgs& args, const Launch& launch) {
  check(unsupported(args.problem, launch.architecture));
  if (args.problem.is_empty()) return;
  for_kernels(args.problem, [&](auto element, auto dim) { forward_dim<decltype(element), dim()>(args, launch); });
}

size_t backward_workspace(const BackwardArgs& args) {
  if (args.forward.problem.is_empty()) return 0;
  return most_bytes([&](int architecture) {
    return unsupported(args, architecture) ? 0 : plan_backward(args, {nullptr, architecture, 1}).bytes;
  });
}

void backward(const BackwardArgs& args, void* workspace, const Launch& launch) {
  const Problem& problem = args.forward.problem;
  check(unsupported(args, launch.architecture));
  if (problem.is_empty()) return;
  const BackwardPlan plan = plan_backward(args, launch);
  for_kernels(problem, [&](auto element, auto dim) {
    query_pass_dim<decltype(element), dim()>(args, plan, workspace, launch);  // finds what the other reads
    key_pass_dim<decltype(element), dim()>(args, plan, workspace, launch);
  });
  if (!args.grad_rpb) return;
  const int64_t entries = problem.heads * relative_positions(plan.query.cut.kernel);
  band::reduce_chunks(
      {plan.chunks_of_rpb(workspace), static_cast<float*>(args.grad_rpb), int(plan.chunks), int(entries)}, launch);
}

}  // namespace natten_core::cuda::box
