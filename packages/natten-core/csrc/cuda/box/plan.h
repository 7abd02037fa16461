// How the host cuts a problem.
#pragma once

#include "cuda/band/geometry.h"
#include "cuda/box/params.h"
#include "cuda/device/launch.h"

namespace natten_core::cuda::box {

// The head_dim that kernels are made for.
inline int padded(int64_t head_dim) { return head_dim <= 32 ? 32 : head_dim <= 64 ? 64 : 128; }

struct Plan {
  Cut cut{};
  int64_t shared = 0;
  int64_t blocks = 0, runs = 0;  // the grid's second and third numbers
};

// The box that a multiprocessor is done with soonest: its warps' work is set against what it copies, which is more for
// each query the smaller a box is. `shared` stays above the limit where none fits.
template <class S>
Plan plan_forward(const Problem& problem, const Launch& launch) {
  Plan plan;
  Cut& cut = plan.cut;
  int64_t length[kRank], residues = 1;
  for (int axis = 0; axis < kRank; ++axis) {
    cut.extent[axis] = int(problem.extent[axis]), cut.dilation[axis] = int(problem.dilation[axis]);
    cut.kernel[axis] = int(problem.kernel[axis]);
    length[axis] = ceil_div(problem.extent[axis], problem.dilation[axis]), residues *= problem.dilation[axis];
  }
  cut.batch = int(problem.batch);
  const int64_t limit = shared_limit(launch.architecture), dim = padded(problem.head_dim);
  const int64_t rows_of_tile = key_rows<S>(cut.kernel[kY]), warps = dim <= 32 ? 16 : 8;  // that registers allow
  const int64_t all_y = ceil_div(length[kY], S::kTileY), all_x = ceil_div(length[kX], S::kTileX);
  int64_t best = INT64_MAX, resident = 1;
  plan.shared = INT64_MAX;
  for (int64_t y = 1; y <= min_of(kMaxTiles, all_y); ++y)
    for (int64_t x = 1; x <= min_of(kMaxTiles / y, all_x); ++x) {
      const int64_t rows = (y - 1) * S::kTileY + rows_of_tile, columns = (x - 1) * S::kTileX + S::kColumns;
      const int64_t shared = kStages * 2 * rows * columns * dim * 2 + bias_bytes(cut.kernel) + band::kSignalBytes;
      const int64_t held = min_of(warps / (y * x + 1), limit / (shared + 1024));
      if (shared > limit) {
        if (plan.shared > limit) plan.shared = min_of(plan.shared, shared);
        continue;
      }
      // Cycles of a plane: an n-tile of a warp takes about 46 instructions for every 32 of head_dim, of which four
      // warps issue one at a time; a multiprocessor gets about 20 bytes a cycle.
      const int64_t compute = y * x * rows_of_tile * S::kTiles * 46 * dim / 32 / 4, copies = rows * columns * dim / 5;
      const int64_t busy = min_of(8, max_of(held, 1) * y * x);  // warps that hide one another's waits
      const int64_t boxes = ceil_div(all_y, y) * ceil_div(all_x, x), cost = boxes * max_of(compute, copies) * 8 / busy;
      if (cost >= best) continue;
      best = cost, resident = max_of(held, 1), plan.shared = shared;
      cut.tiles_y = int(y), cut.tiles_x = int(x), cut.stage_rows = int(rows), cut.stage_columns = int(columns);
      cut.boxes_y = int(ceil_div(all_y, y)), cut.boxes_x = int(ceil_div(all_x, x));
    }
  if (best == INT64_MAX) return plan;
  plan.blocks = residues * cut.boxes_y * cut.boxes_x;
  // A block begins with its table and with copies that nothing overlaps; four waves leave little of an uneven end.
  const int64_t units = problem.batch * length[kZ], wanted = 4 * resident * launch.multiprocessors;
  const int64_t per_block = max_of(problem.heads * plan.blocks * units / wanted, ceil_div(units, 65535));
  cut.units_per_block = int(max_of(1, per_block));
  plan.runs = ceil_div(units, cut.units_per_block);
  return plan;
}

// Calls `use` with the shape of tile for the problem.
template <class Use>
auto with_shape(const Problem& problem, const Use& use) {
  if (problem.extent[kY] == 1) return use(Line{});
  if (problem.kernel[kX] <= Square::kMostKernelX) return use(Square{});
  return use(WideSquare{});
}

}  // namespace natten_core::cuda::box
