// Included by the files that instantiate the query-major pass.
#pragma once

#include "cuda/band/backward.h"
#include "cuda/band/backward_query.cuh"
#include "cuda/device/start.h"

namespace natten_core::cuda::band {

template <class T, int D>
void query_pass_dim(const BackwardArgs& args, const BackwardPlan& plan, void* workspace, const Launch& launch) {
  const Problem& problem = args.forward.problem;
  char* const scratch = static_cast<char*>(workspace);
  QueryPassParams<T> p;
  p.cut = plan.query.cut;
  p.query = view<const T>(args.forward.query), p.key = view<const T>(args.forward.key);
  p.value = view<const T>(args.forward.value), p.output = view<const T>(args.forward.output);
  p.grad_output = view<const T>(args.grad_output);
  p.lse = view<const float>(args.forward.lse), p.grad_lse = view<const float>(args.grad_lse);
  p.grad_query = view<T>(args.grad_query);
  p.statistics = reinterpret_cast<float*>(scratch + plan.statistics);
  p.rpb = static_cast<const float*>(args.forward.rpb);
  p.grad_rpb = args.grad_rpb ? reinterpret_cast<float*>(scratch + plan.grad_rpb) : nullptr;
  p.map_size = plan.length_y * 2 * plan.length_x, p.length_x = int(plan.length_x);
  p.heads = int(problem.heads), p.group = int(problem.heads / problem.heads_kv);
  p.slots = plan.query.slots, p.head_dim = int(problem.head_dim), p.scale = float(problem.scale);
  const Cut& cut = p.cut;
  const dev::Grid grid{unsigned(problem.heads), unsigned(cut.dilation_y * cut.dilation_x * cut.strips * cut.bands),
                       unsigned(ceil_div(cut.batch, cut.batch_per_block))};
  const auto run = [&](auto* kernel) { dev::start(kernel, grid, (cut.tiles + 1) * 32, plan.query.shared, launch, p); };
  constexpr int kLong = kHalves<T, D>;
  if (plan.query.tiles == 3) return run(query_pass<T, QueryShape<3, false, kLong>, D>);
  if (D <= 32 && is_fixed(problem)) return run(query_pass<T, QueryShape<2, (D <= 32), kLong>, D>);
  run(query_pass<T, QueryShape<2, false, kLong>, D>);
}

}  // namespace natten_core::cuda::band
