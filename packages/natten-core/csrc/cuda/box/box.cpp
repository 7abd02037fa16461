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
    switch (padded(problem.head_dim)) {
      case 32: return use(element, std::integral_constant<int, 32>{});
      case 64: return use(element, std::integral_constant<int, 64>{});
      default: return use(element, std::integral_constant<int, 128>{});
    }
  };
  problem.dtype == DType::kBFloat16 ? of(dev::bf16{}) : of(dev::half{});
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
