// How the host cuts the backward of a problem, and where its workspace has what.
#pragma once

#include <cstddef>

#include "cuda/band/backward_geometry.h"
#include "cuda/band/backward_params.h"
#include "cuda/band/cut.h"

namespace natten_core::cuda::band {

struct PassPlan {
  Cut cut{};
  int tiles = 0;  // n-tiles of 8 columns: 2 or 3
  int slots = 0;  // of the ring
  int shared = 0;
  int resident = 1;  // blocks that a multiprocessor holds
  int origin[2] = {0, 0};
};

// The lengths of a dilated map's residue maps: the larger, and the smaller if there are two.
template <class Use>
void for_lengths(const Cut& cut, const Use& use) {
  const int shorter = cut.extent_x / cut.dilation_x, longer = cut.extent_x % cut.dilation_x;
  const int length_y = int(ceil_div(cut.extent_y, cut.dilation_y));
  if (longer) use(Map{length_y, shorter + 1, cut.kernel_y, cut.kernel_x}, 0);
  if (longer < cut.dilation_x) use(Map{length_y, shorter, cut.kernel_y, cut.kernel_x}, 1);
}

inline bool is_fixed(const Problem& problem) { return problem.kernel[kY] == 7 && problem.kernel[kX] <= 8; }

// Fills in what a strip of at most `most` tiles needs. `column_bytes` are those of the ring for a column, `tile_bytes`
// those of each tile. Returns how many tiles there are in all.
template <class By>
int set_strips(PassPlan& plan, int most, int column_bytes, int tile_bytes) {
  const int columns = plan.tiles * 8;
  Cut& cut = plan.cut;
  int all = 0;
  for_lengths(cut,
              [&](const Map& map, int i) { all = int(max_of(all, ceil_div(map.length_x - plan.origin[i], kTileX))); });
  cut.strips = int(ceil_div(all, most)), cut.tiles = int(ceil_div(all, cut.strips));
  cut.shared_columns = columns, cut.tables = 1;
  for_lengths(cut, [&](const Map& map, int i) {
    for (int strip = 0; strip < cut.strips; ++strip) {
      if (strip > 2 && strip < cut.strips - 3) strip = cut.strips - 3;  // those between are alike
      const int x = strip * cut.tiles * kTileX + plan.origin[i];
      int present = 0, tables = border_tiles<By>(map, x, cut.tiles, columns);
      while (present < cut.tiles && x + present * kTileX < map.length_x) ++present;
      if (present == 0) continue;
      tables += tables < present;
      const int width = By::first(map, x + (present - 1) * kTileX, columns) - By::first(map, x, columns) + columns;
      cut.shared_columns = int(max_of(cut.shared_columns, width)), cut.tables = int(max_of(cut.tables, tables));
    }
  });
  plan.shared = plan.slots * cut.shared_columns * column_bytes + cut.tiles * tile_bytes +
                cut.tables * table_bytes(cut.kernel_y, plan.tiles) + kSignalBytes;
  return all;
}

// Chooses the strips by which a multiprocessor has the most warps at work, of the `warps` that registers allow, one of
// each block loading; the wider of two that are alike. Where no strip fits, `shared` stays above the limit.
template <class By>
void choose_strips(PassPlan& plan, int warps, int column_bytes, int tile_bytes, int limit) {
  int64_t best_score = -1;
  int best = 1;
  for (int most = kMaxTiles; most > 0; --most) {
    const int all = set_strips<By>(plan, most, column_bytes, tile_bytes);
    if (plan.shared > limit) continue;
    const int64_t resident = min_of(warps / (plan.cut.tiles + 1), blocks_in(limit, plan.shared));
    const int64_t score = 1000 * resident * all / plan.cut.strips;  // strips have idle warps
    if (score > best_score) best_score = score, best = most, plan.resident = int(resident);
  }
  set_strips<By>(plan, best, column_bytes, tile_bytes);
}

// Gives each block samples, or a part of a map, so that multiprocessors with room for `room` blocks in all are done
// soonest. A sample takes as many units of time as it has steps, and some more to begin with.
inline void schedule(Cut& cut, int64_t heads, int64_t room) {
  const int64_t maps = heads * cut.dilation_y * cut.dilation_x * cut.strips, start = cut.kernel_y / 2 + 3;
  const int64_t steps = cut.band_rows / kTileY;
  int64_t best = 0;
  for (int64_t waves = 1; waves <= 4; ++waves) {
    const int64_t per_block = ceil_div(cut.batch, max_of(1, waves * room / maps));
    const int64_t blocks = maps * ceil_div(cut.batch, per_block);
    const int64_t time = ceil_div(blocks, room) * (per_block * (steps + 2) + start);
    if (waves == 1 || time < best) best = time, cut.batch_per_block = int(per_block);
  }
  if (cut.batch_per_block > 1) return;
  const int64_t rows = cut.band_rows, blocks = maps * cut.batch, most = min_of(rows / 8, 4 * ceil_div(room, blocks));
  for (int64_t bands = 1; bands <= max_of(1, most); ++bands) {
    const int64_t band = ceil_div(ceil_div(rows, bands), kTileY), count = ceil_div(steps, band);
    const int64_t time = ceil_div(blocks * count, room) * (band + start);
    if (bands == 1 || time < best) best = time, cut.bands = int(count), cut.band_rows = int(band) * kTileY;
  }
}

inline PassPlan plan_query_pass(const Problem& problem, bool has_bias, int limit) {
  PassPlan plan;
  const int kernel_y = int(problem.kernel[kY]), kernel_x = int(problem.kernel[kX]);
  plan.tiles = kernel_x <= 9 ? 2 : 3;
  plan.cut = cut_of(problem, plan.tiles * 8);
  plan.slots = kernel_y + 1 + kTileY;
  const int row_bytes = padded_bytes(problem);
  const int halves = row_bytes / 2;
  const int warps = is_fixed(problem) ? fixed_query_warps(halves, limit) : backward_warps(halves, plan.tiles);
  choose_strips<ByQueries>(plan, warps, row_bytes * 2, has_bias ? sums_bytes(kernel_y, kernel_x) : 0, limit);
  return plan;
}

inline PassPlan plan_key_pass(const Problem& problem, int limit) {
  PassPlan plan;
  const int kernel_y = int(problem.kernel[kY]);
  plan.cut = cut_of(problem, 16);
  for (plan.tiles = 2; plan.tiles <= 3; ++plan.tiles) {
    bool fits = true;
    for_lengths(plan.cut, [&](const Map& map, int i) {
      plan.origin[i] = key_origin(map, plan.tiles * 8);
      fits &= plan.origin[i] <= 0;
    });
    if (fits) break;
  }
  // Near a border, keys are seen by more rows of queries than elsewhere.
  plan.slots = kernel_y + 1 + kTileY;
  const int length_y = int(ceil_div(plan.cut.extent_y, plan.cut.dilation_y));
  for (int length = length_y; length >= length_y - 1 && length >= kernel_y; --length) {
    const Map map{length, 0, kernel_y, 0};
    for (int y = 0; y < length; y += kTileY)
      plan.slots = int(max_of(plan.slots, seen_end_y(map, y) - seen_begin_y(map, y)));
  }
  const int row_bytes = padded_bytes(problem);
  choose_strips<ByKeys>(plan, backward_warps(row_bytes / 2, plan.tiles), row_bytes * 2 + 8, 0, limit);
  return plan;
}

struct BackwardPlan {
  PassPlan query, key;
  int64_t length_y, length_x;  // of the largest residue map
  int64_t chunks;              // of the bias gradient
  // Offsets in the workspace, and its size.
  int64_t statistics = 0, sums = 0, grad_rpb = 0, bytes = 0;
};

// The query-major pass is cut for this many multiprocessors on every device, as its cut shapes the sum of bias
// gradients.
constexpr int kQueryPassMultiprocessors = 132;

inline BackwardPlan plan_backward(const BackwardArgs& args, int limit, int multiprocessors) {
  const Problem& problem = args.forward.problem;
  const bool has_bias = args.forward.rpb || args.grad_rpb;
  BackwardPlan plan;
  plan.query = plan_query_pass(problem, has_bias, limit);
  plan.key = plan_key_pass(problem, limit);
  schedule(plan.query.cut, problem.heads, int64_t{plan.query.resident} * kQueryPassMultiprocessors);
  schedule(plan.key.cut, problem.heads_kv, int64_t{plan.key.resident} * multiprocessors);

  const Cut& cut = plan.query.cut;
  plan.length_y = ceil_div(cut.extent_y, cut.dilation_y), plan.length_x = ceil_div(cut.extent_x, cut.dilation_x);
  const int64_t residues = int64_t(cut.dilation_y) * cut.dilation_x;
  plan.chunks = residues * cut.strips * cut.bands * ceil_div(cut.batch, cut.batch_per_block);
  const auto take = [&](int64_t bytes) {
    const int64_t at = plan.bytes;
    plan.bytes += ceil_div(bytes, 512) * 512;
    return at;
  };
  plan.statistics = take(problem.batch * problem.heads * residues * plan.length_y * plan.length_x * 8);
  if (problem.heads > problem.heads_kv)
    plan.sums = take(problem.batch * problem.heads_kv * residues * ceil_div(plan.length_y, 2) * plan.key.cut.strips *
                     plan.key.cut.tiles * (padded(problem) / 4) * 32 * 16);
  if (args.grad_rpb)
    plan.grad_rpb = take(plan.chunks * problem.heads * (2 * cut.kernel_y - 1) * (2 * cut.kernel_x - 1) * 4);
  return plan;
}

}  // namespace natten_core::cuda::band
