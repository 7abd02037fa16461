// Included by the files that instantiate the key-major pass.
#pragma once

#include "cuda/box/backward.h"
#include "cuda/box/backward_key.cuh"
#include "cuda/device/start.h"

namespace natten_core::cuda::box {

template <class T, int D>
void key_pass_dim(const BackwardArgs& args, const BackwardPlan& plan, void* workspace, const Launch& launch) {
  const Problem& problem = args.forward.problem;
  KeyPassParams<T> p;
  p.cut = plan.key.cut;
  p.query = view<const T>(args.forward.query), p.key = view<const T>(args.forward.key);
  p.value = view<const T>(args.forward.value), p.grad_output = view<const T>(args.grad_output);
  p.grad_key = view<T>(args.grad_key), p.grad_value = view<T>(args.grad_value);
  p.statistics = plan.statistics(workspace);
  p.rpb = static_cast<const float*>(args.forward.rpb);
  p.origin[0] = plan.key.origin[0], p.origin[1] = plan.key.origin[1];
  p.heads = int(problem.heads), p.group = int(problem.heads / problem.heads_kv);
  p.head_dim = int(problem.head_dim), p.scale = float(problem.scale);
  const dev::Grid grid{unsigned(problem.heads_kv), unsigned(plan.key.blocks), unsigned(plan.key.runs)};
  const int threads = (p.cut.tiles_y * p.cut.tiles_x + 1) * 32, shared = int(plan.key.shared);
  band::for_results<band::kHalves<T, D>>([&](auto results) {
    using R = decltype(results);
    if constexpr (kHasWide<T, D>) {
      if (plan.key.tiles == 3) return dev::start(key_pass<T, Wide, R, D>, grid, threads, shared, launch, p);
    }
    dev::start(key_pass<T, Narrow, R, D>, grid, threads, shared, launch, p);
  });
}

}  // namespace natten_core::cuda::box
