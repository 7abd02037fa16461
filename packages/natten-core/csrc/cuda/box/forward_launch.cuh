// Included by the files that instantiate the forward kernels.
#pragma once

#include "cuda/box/forward.cuh"
#include "cuda/box/forward.h"
#include "cuda/box/plan.h"
#include "cuda/device/start.h"

namespace natten_core::cuda::box {

template <class T, int D, class S>
void start_forward(const ForwardArgs& args, const Launch& launch, S) {
  const Problem& problem = args.problem;
  const Plan plan = plan_forward<S>(problem, launch);
  ForwardParams<T> p;
  p.cut = plan.cut;
  p.query = view<const T>(args.query), p.key = view<const T>(args.key), p.value = view<const T>(args.value);
  p.output = view<T>(args.output), p.lse = view<float>(args.lse);
  p.rpb = static_cast<const float*>(args.rpb);
  p.group = int(problem.heads / problem.heads_kv), p.head_dim = int(problem.head_dim), p.scale = float(problem.scale);
  const dev::Grid grid{unsigned(problem.heads), unsigned(plan.blocks), unsigned(plan.runs)};
  dev::start(forward_kernel<T, S, D>, grid, (p.cut.tiles_y * p.cut.tiles_x + 1) * 32, int(plan.shared), launch, p);
}

template <class T, int D>
void forward_dim(const ForwardArgs& args, const Launch& launch) {
  with_shape(args.problem, [&](auto shape) { start_forward<T, D>(args, launch, shape); });
}

}  // namespace natten_core::cuda::box
