// Included by the files that instantiate the key-major pass.
#pragma once

#include "cuda/band/backward.h"
#include "cuda/band/backward_key.cuh"
#include "cuda/device/start.h"

namespace natten_core::cuda::band {

template <class T, int D>
void key_pass_dim(const BackwardArgs& args, const BackwardPlan& plan, void* workspace, const Launch& launch) {
  const Problem& problem = args.forward.problem;
  char* const scratch = static_cast<char*>(workspace);
  KeyPassParams<T> p;
  p.cut = plan.key.cut;
  p.query = view<const T>(args.forward.query), p.key = view<const T>(args.forward.key);
  p.value = view<const T>(args.forward.value), p.grad_output = view<const T>(args.grad_output);
  p.grad_key = view<T>(args.grad_key), p.grad_value = view<T>(args.grad_value);
  p.statistics = reinterpret_cast<const float*>(scratch + plan.statistics);
  p.rpb = static_cast<const float*>(args.forward.rpb);
  p.sums = reinterpret_cast<dev::vec<float, 4>*>(scratch + plan.sums);
  p.map_size = plan.length_y * 2 * plan.length_x, p.length_x = int(plan.length_x);
  p.heads = int(problem.heads), p.group = int(problem.heads / problem.heads_kv);
  p.slots = plan.key.slots, p.head_dim = int(problem.head_dim), p.scale = float(problem.scale);
  p.origin[0] = plan.key.origin[0], p.origin[1] = plan.key.origin[1];
  const Cut& cut = p.cut;
  const dev::Grid grid{unsigned(problem.heads_kv), unsigned(cut.dilation_y * cut.dilation_x * cut.strips * cut.bands),
                       unsigned(ceil_div(cut.batch, cut.batch_per_block))};
  constexpr int kLong = kHalves<T, D>;
  for_results<kLong>([&](auto results) {
    using R = decltype(results);
    const auto run = [&](auto* kernel) { dev::start(kernel, grid, (cut.tiles + 1) * 32, plan.key.shared, launch, p); };
    if (plan.key.tiles == 3) return run(key_pass<T, KeyShape<3, false, kLong>, R, D>);
    if (D <= 32 && problem.kernel[kY] == 7) return run(key_pass<T, KeyShape<2, (D <= 32), kLong>, R, D>);
    run(key_pass<T, KeyShape<2, false, kLong>, R, D>);
  });
}

}  // namespace natten_core::cuda::band
