// Included by the files that instantiate the forward kernels.
#pragma once

#include "cuda/box/forward.cuh"
#include "cuda/box/forward.h"
#include "cuda/box/plan.h"
#include "cuda/device/start.h"

namespace natten_core::cuda::box {

template <class T, int D>
void forward_dim(const ForwardArgs& args, const Launch& launch) {
  const Problem& problem = args.problem;
  const Plan plan = plan_forward(problem, launch);
  ForwardParams<T> p;
  p.cut = plan.cut;
  p.query = view<const T>(args.query), p.key = view<const T>(args.key), p.value = view<const T>(args.value);
  p.output = view<T>(args.output), p.lse = view<float>(args.lse);
  p.rpb = static_cast<const float*>(args.rpb);
  p.group = int(problem.heads / problem.heads_kv), p.head_dim = int(problem.head_dim), p.scale = float(problem.scale);
  const dev::Grid grid{unsigned(problem.heads), unsigned(plan.blocks), unsigned(plan.runs)};
  const int threads = (p.cut.tiles_y * p.cut.tiles_x + 1) * 32, shared = int(plan.shared);
  if constexpr (kHasWide<T, D>) {
    if (plan.tiles == 3) return dev::start(forward_kernel<T, Wide, D>, grid, threads, shared, launch, p);
  }
  dev::start(forward_kernel<T, Narrow, D>, grid, threads, shared, launch, p);
}

}  // namespace natten_core::cuda::box
