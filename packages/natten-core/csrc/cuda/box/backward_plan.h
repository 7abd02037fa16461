// How the host cuts the backward of a problem, and where its workspace has what.
#pragma once

#include "cuda/box/backward_params.h"
#include "cuda/box/plan.h"

namespace natten_core::cuda::box {

// The query-major pass is cut for this many multiprocessors on every device, as its cut shapes the sum of bias
// gradients.
constexpr int kQueryPassMultiprocessors = 132;

inline Plan plan_query_pass(const Problem& problem, bool has_bias, const Launch& launch) {
  const int kernel[kRank] = {int(problem.kernel[kZ]), int(problem.kernel[kY]), int(problem.kernel[kX])};
  const Launch same{launch.stream, launch.architecture, kQueryPassMultiprocessors};
  const int64_t warps = band::backward_warps(padded_bytes(problem) / 2, tiles_by_queries(problem));
  return plan_by_queries(problem, same, warps, is_single(problem) ? 128 : 100, has_bias ? sums_bytes(kernel) : 0);
}

// Calls `use` with the places at which tiles or boxes of `step` begin along an axis, but for most of those that no
// border is near.
template <class Use>
void for_places(int64_t begin, int64_t length, int64_t step, const Use& use) {
  for (int64_t at = begin; at < length; at += step) {
    const int64_t far = length - 64 - step;
    if (at > 64 && at < far) at += (far - at) / step * step;
    use(int(at));
  }
}

struct KeyPlan : Plan {
  int origin[2] = {0, 0};  // of the longer and the shorter residue maps
};

inline KeyPlan plan_key_pass(const Problem& problem, const Launch& launch) {
  KeyPlan plan;
  // The lengths of residue maps along y and x: the longer, and the shorter where there are two.
  const auto shorter = [&](int axis) { return problem.extent[axis] / problem.dilation[axis]; };
  const auto longer = [&](int axis) { return ceil_div(problem.extent[axis], problem.dilation[axis]); };
  const int kernel_y = int(problem.kernel[kY]), kernel_x = int(problem.kernel[kX]);
  const auto map_of = [&](int64_t length_y, int64_t length_x) {
    return band::Map{int(length_y), int(length_x), kernel_y, kernel_x};
  };
  int tiles = 2, origin[2] = {1, 1};
  for (; tiles <= 3; ++tiles) {
    origin[0] = band::key_origin(map_of(1, longer(kX)), tiles * 8);
    origin[1] = band::key_origin(map_of(1, shorter(kX)), tiles * 8);
    if (origin[0] <= 0 && origin[1] <= 0) break;
  }
  if (tiles > 3) return plan;

  const auto rows = [&](int64_t y) {
    int64_t most = 0;
    for (int64_t length : {longer(kY), shorter(kY)}) {
      const band::Map map = map_of(length, 1);
      for_places(0, length, y * kTileY, [&](int at) {
        const int last = int(min_of(at + y * kTileY, ceil_div(length, kTileY) * kTileY)) - kTileY;
        most = max_of(most, band::seen_end_y(map, last) - band::seen_begin_y(map, at));
      });
    }
    return most;
  };
  const auto columns = [&](int64_t x) {
    int64_t most = tiles * 8;
    for (int i = 0; i < 2; ++i) {
      const int64_t length = i == 0 ? longer(kX) : shorter(kX);
      const band::Map map = map_of(1, length);
      for_places(origin[i], length, x * kTileX, [&](int at) {
        const int present = int(min_of(x, ceil_div(length - at, kTileX))), last = at + (present - 1) * kTileX;
        most = max_of(most, band::first_query_column(map, last, tiles * 8) -
                                band::first_query_column(map, at, tiles * 8) + tiles * 8);
      });
    }
    return most;
  };
  const int64_t tile_rows = kernel_y + 1;
  const int row_bytes = padded_bytes(problem);
  const Needs needs{tiles,
                    band::backward_warps(row_bytes / 2, tiles),
                    row_bytes * 2 + 8,
                    0,
                    tile_rows,
                    is_single(problem) ? 170 : 120};
  static_cast<Plan&>(plan) =
      plan_boxes(problem, problem.heads_kv, launch, needs, min_of(origin[0], origin[1]), rows, columns);
  plan.origin[0] = origin[0], plan.origin[1] = origin[1];
  return plan;
}

struct BackwardPlan {
  Plan query;
  KeyPlan key;
  int64_t length[kRank];  // of the largest residue map
  int64_t chunks = 0;     // of the bias gradient
  int64_t grad_rpb = 0, bytes = 0;  // in the workspace, which begins with the statistics; its size

  Statistics statistics(void* workspace) const {
    return {static_cast<float*>(workspace), length[kZ] * length[kY] * 2 * length[kX], int(length[kY]), int(length[kX])};
  }
  float* chunks_of_rpb(void* workspace) const {
    return reinterpret_cast<float*>(static_cast<char*>(workspace) + grad_rpb);
  }
};

inline BackwardPlan plan_backward(const BackwardArgs& args, const Launch& launch) {
  const Problem& problem = args.forward.problem;
  BackwardPlan plan;
  plan.query = plan_query_pass(problem, args.forward.rpb || args.grad_rpb, launch);
  plan.key = plan_key_pass(problem, launch);
  int64_t positions = problem.batch * problem.heads;
  for (int axis = 0; axis < kRank; ++axis) {
    plan.length[axis] = ceil_div(problem.extent[axis], problem.dilation[axis]);
    positions *= plan.length[axis] * problem.dilation[axis];
  }
  plan.grad_rpb = ceil_div(positions * 8, 512) * 512;
  plan.chunks = plan.query.blocks * plan.query.runs;
  plan.bytes = plan.grad_rpb;
  if (args.grad_rpb) plan.bytes += plan.chunks * problem.heads * relative_positions(plan.query.cut.kernel) * 4;
  return plan;
}

}  // namespace natten_core::cuda::box
