// How the host cuts a problem into boxes, for every pass.
#pragma once

#include "cuda/box/params.h"
#include "cuda/device/launch.h"

namespace natten_core::cuda::box {

// The head_dim that kernels are made for.
inline int padded(const Problem& problem) {
  const int64_t head_dim = problem.head_dim;
  return head_dim <= 32 ? 32 : head_dim <= 64 ? 64 : 128;
}

// Whether elements are fp32, which is multiplied in TF32.
inline bool is_single(const Problem& problem) { return problem.dtype == DType::kFloat32; }

// Bytes of a row of that head_dim.
inline int padded_bytes(const Problem& problem) { return padded(problem) * int(problem.element_bytes()); }

struct Plan {
  Cut cut{};
  int tiles = 0;  // n-tiles of 8 columns of the other side: 2 or 3
  int64_t shared = INT64_MAX;
  int64_t blocks = 0, runs = 0;  // the grid's second and third numbers
};

// What a pass needs.
struct Needs {
  int tiles;  // n-tiles of 8 columns of the other side
  int64_t warps;  // of a multiprocessor, that registers allow
  int64_t column_bytes;  // of a stage, for each row
  int64_t tile_bytes;  // of shared memory
  int64_t tile_rows;  // of the other side, for a tile
  int64_t instructions;  // of a warp, for an n-tile and 32 of head_dim
};

// Chooses the box that a multiprocessor is done with soonest: its warps' work is set against what it copies, which is
// more for each tile the smaller a box is. `rows` and `columns` tell from a number of tiles what a stage holds;
// `origin` is the column of the first tile, 0 or less. `shared` stays above the limit where nothing fits.
template <class Rows, class Columns>
Plan plan_boxes(const Problem& problem, int64_t heads, const Launch& launch, const Needs& needs, int64_t origin,
                const Rows& rows, const Columns& columns) {
  Plan plan;
  Cut& cut = plan.cut;
  int64_t length[kRank], residues = 1;
  for (int axis = 0; axis < kRank; ++axis) {
    cut.extent[axis] = int(problem.extent[axis]), cut.dilation[axis] = int(problem.dilation[axis]);
    cut.kernel[axis] = int(problem.kernel[axis]);
    length[axis] = ceil_div(problem.extent[axis], problem.dilation[axis]), residues *= problem.dilation[axis];
  }
  cut.batch = int(problem.batch);
  const int64_t limit = shared_limit(launch.architecture), dim = padded(problem);
  const int64_t all_y = ceil_div(length[kY], kTileY), all_x = ceil_div(length[kX] - origin, kTileX);
  const int64_t fixed = bias_bytes(cut.kernel) + band::kSignalBytes;
  int64_t best = INT64_MAX, resident = 1;
  plan.tiles = needs.tiles;
  const auto consider = [&](int64_t y, int64_t x, int64_t stages) {
    const int64_t stage_rows = rows(y), stage_columns = columns(x);
    const int64_t shared = stages * stage_rows * stage_columns * needs.column_bytes + fixed + y * x * needs.tile_bytes;
    const int64_t held = min_of(needs.warps / (y * x + 1), limit / (shared + 1024));
    if (shared > limit) {
      if (plan.shared > limit) plan.shared = min_of(plan.shared, shared);
      return;
    }
    // Cycles of a plane: four warps issue one instruction at a time; a multiprocessor gets about 20 bytes a cycle.
    const int64_t compute = y * x * needs.tile_rows * needs.tiles * needs.instructions * dim / 32 / 4;
    const int64_t copies = stage_rows * stage_columns * padded_bytes(problem) / 10;
    const int64_t both = stages > 1 ? max_of(compute, copies) : compute + copies;
    const int64_t busy = min_of(8, max_of(held, 1) * y * x);  // warps that hide one another's waits
    const int64_t boxes = ceil_div(all_y, y) * ceil_div(all_x, x), cost = boxes * both * 8 / busy;
    if (cost >= best) return;
    best = cost, resident = max_of(held, 1), plan.shared = shared;
    cut.tiles_y = int(y), cut.tiles_x = int(x), cut.stages = int(stages);
    cut.stage_rows = int(stage_rows), cut.stage_columns = int(stage_columns);
    cut.boxes_y = int(ceil_div(all_y, y)), cut.boxes_x = int(ceil_div(all_x, x));
  };
  for (int64_t stages = kMostStages; stages > 0; --stages)
    for (int64_t y = 1; y <= min_of(kMaxTiles, all_y); ++y)
      for (int64_t x = 1; x <= min_of(kMaxTiles / y, all_x); ++x) consider(y, x, stages);
  if (best == INT64_MAX) return plan;
  plan.blocks = residues * cut.boxes_y * cut.boxes_x;
  // A block begins with its table and with copies that nothing overlaps; four waves leave little of an uneven end.
  const int64_t units = problem.batch * length[kZ], wanted = 4 * resident * launch.multiprocessors;
  const int64_t per_block = max_of(heads * plan.blocks * units / wanted, ceil_div(units, 65535));
  cut.units_per_block = int(max_of(1, per_block));
  plan.runs = ceil_div(units, cut.units_per_block);
  return plan;
}

inline int tiles_by_queries(const Problem& problem) { return problem.kernel[kX] <= Narrow::kMostKernelX ? 2 : 3; }

// Of a pass whose tiles are of queries.
inline Plan plan_by_queries(const Problem& problem, const Launch& launch, int64_t warps, int64_t instructions,
                            int64_t tile_bytes) {
  const int tiles = tiles_by_queries(problem);
  const int64_t tile_rows = key_rows(int(problem.kernel[kY]));
  const Needs needs{tiles, warps, padded_bytes(problem) * 2, tile_bytes, tile_rows, instructions};
  return plan_boxes(
      problem, problem.heads, launch, needs, 0, [&](int64_t y) { return (y - 1) * kTileY + tile_rows; },
      [&](int64_t x) { return (x - 1) * kTileX + tiles * 8; });
}

inline Plan plan_forward(const Problem& problem, const Launch& launch) {
  return plan_by_queries(problem, launch, padded_bytes(problem) <= 64 ? 16 : 8, is_single(problem) ? 72 : 46, 0);
}

}  // namespace natten_core::cuda::box
