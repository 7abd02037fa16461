// Included by the files that instantiate the query-major pass.
#pragma once

#include "cuda/box/backward.h"
#include "cuda/box/backward_query.cuh"
#include "cuda/device/start.h"

namespace natten_core::cuda::box {

template <class T, int D>
void query_pass_dim(const BackwardArgs& args, const BackwardPlan& plan, void* workspace, const Launch& launch) {
  const Problem& problem = args.forward.problem;
  QueryPassParams<T> p;
  p.cut = plan.query.cut;
  p.query = view<const T>(args.forward.query), p.key = view<const T>(args.forward.key);
  p.value = view<const T>(args.forward.value), p.output = view<const T>(args.forward.output);
  p.grad_output = view<const T>(args.grad_output), p.grad_query = view<T>(args.grad_query);
  p.lse = view<const float>(args.forward.lse), p.grad_lse = view<const float>(args.grad_lse);
  p.statistics = plan.statistics(workspace);
  p.rpb = static_cast<const float*>(args.forward.rpb);
  p.grad_rpb = args.grad_rpb ? plan.chunks_of_rpb(workspace) : nullptr;
  p.heads = int(problem.heads), p.group = int(problem.heads / problem.heads_kv);
  p.head_dim = int(problem.head_dim), p.scale = float(problem.scale);
  const dev::Grid grid{unsigned(problem.heads), unsigned(plan.query.blocks), unsigned(plan.query.runs)};
  const int threads = (p.cut.tiles_y * p.cut.tiles_x + 1) * 32, shared = int(plan.query.shared);
  if constexpr (kHasWide<T, D>) {
    if (plan.query.tiles == 3) return dev::start(query_pass<T, Wide, D>, grid, threads, shared, launch, p);
  }
  dev::start(query_pass<T, Narrow, D>, grid, threads, shared, launch, p);
}

}  // namespace natten_core::cuda::box
