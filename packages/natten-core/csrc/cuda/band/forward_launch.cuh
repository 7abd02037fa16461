// Included by the files that instantiate the forward kernels.
#pragma once

#include "cuda/band/forward.cuh"
#include "cuda/band/forward.h"
#include "cuda/device/start.h"

namespace natten_core::cuda::band {

template <class T, int K, int D>
void start_forward(const ForwardArgs& args, const Launch& launch) {
  using Shape = ForwardShape<T, K, D>;
  const Problem& problem = args.problem;
  ForwardParams<T> p;
  const int limit = shared_limit(launch.architecture);
  int shared = 0;
  for (int most = kMaxTiles; most > 0; --most) {
    p.cut = cut_of(problem, Shape::kColumns, most);
    shared = Shape::shared_bytes(p.cut.shared_columns, p.cut.tables);
    if (shared <= limit) break;
  }
  // Blocks of a multiprocessor: by shared memory, and by registers, which warps get in fours.
  const int registers = Shape::blocks(limit) == 2 ? 128 : Shape::kSmall ? 168 : 256;
  const int warps = int(ceil_div(p.cut.tiles + 1, 4)) * 4;
  const int64_t resident = min_of(blocks_in(limit, shared), 65536 / (warps * 32 * registers));
  fill_device(p.cut, problem, launch.multiprocessors * resident);
  p.query = view<const T>(args.query), p.key = view<const T>(args.key), p.value = view<const T>(args.value);
  p.output = view<T>(args.output), p.lse = view<float>(args.lse);
  p.rpb = static_cast<const float*>(args.rpb);
  p.group = int(problem.heads / problem.heads_kv), p.head_dim = int(problem.head_dim), p.scale = float(problem.scale);
  const dev::Grid grid{unsigned(problem.heads),
                       unsigned(p.cut.dilation_y * p.cut.dilation_x * p.cut.strips * p.cut.bands),
                       unsigned(ceil_div(p.cut.batch, p.cut.batch_per_block))};
  dev::start(forward_kernel<T, K, D>, grid, (p.cut.tiles + 1) * 32, shared, launch, p);
}

template <class T, int D>
void forward_dim(const ForwardArgs& args, const Launch& launch) {
  const int64_t k = args.problem.kernel[kX] > 9 ? max_of(args.problem.kernel[kY], 11) : args.problem.kernel[kY];
  if (k <= 3) return start_forward<T, 3, D>(args, launch);
  if (k <= 5) return start_forward<T, 5, D>(args, launch);
  if (k <= 7) return start_forward<T, 7, D>(args, launch);
  if (k <= 9) return start_forward<T, 9, D>(args, launch);
  if constexpr (kHalves<T, D> <= 64 || dev::is_16_bit<T>) {
    if (k <= 11) return start_forward<T, 11, D>(args, launch);
    return start_forward<T, 13, D>(args, launch);
  }
}

}  // namespace natten_core::cuda::band
