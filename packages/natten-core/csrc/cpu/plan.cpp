#include "plan.h"

#include <algorithm>
#include <climits>

#include "natten_core/neighborhood.h"

namespace natten_core::cpu {
namespace {

// Independent pieces of work that are worth cutting maps into bands for. A band packs the keys that it shares with its
// neighbours once more, and a chunk begins with nothing prefetched, so as few are cut as keep the threads busy. The
// backward pass may not ask how many threads there are, see Plan.
constexpr int64_t kPiecesPerThread = 4;
constexpr int64_t kBackwardPieces = 8;
// Chunks of the backward pass hold at least so many places of work, unless that leaves too few of them.
constexpr int64_t kPlacesPerChunk = 4, kLeastChunks = 16, kMostChunks = 128;
constexpr int64_t kMinBandRows = 8;
constexpr int64_t kMinBandBlocks = 16;
constexpr int64_t kTileColumns = 64;
// The backward pass parts heads that are worth fetching together until it has so many pieces.
constexpr int64_t kHeadPieces = 4;
// A token's part that is worth fetching at a time, and the least that two threads may write to without sharing a line.
constexpr int64_t kTokenBytes = 512, kLineBytes = 64;

struct Columns {
  std::vector<int32_t> key_column, key_end, relative, group_end;
};

Columns lay_out_columns(const Problem& problem, Plan& plan) {
  const int64_t length = problem.extent[kX], kernel = problem.kernel[kX], dilation = problem.dilation[kX];
  const int64_t stride = problem.stride[kX];
  const bool causal = problem.causal[kX];
  Columns columns;
  for (int64_t group = 0; group < min_of(dilation, length); ++group) {
    const int64_t members = group_length(length, dilation, group);
    const int64_t first = static_cast<int64_t>(plan.coordinate.size());
    for (int64_t position = 0; position < members; ++position) {
      const int64_t start = window_begin(position, members, kernel, stride, causal);
      plan.coordinate.push_back(static_cast<int32_t>(position * dilation + group));
      columns.key_column.push_back(static_cast<int32_t>(first + start));
      columns.key_end.push_back(static_cast<int32_t>(first + window_end(position, members, kernel, stride, causal)));
      columns.relative.push_back(static_cast<int32_t>(start - position + kernel - 1));
    }
    columns.group_end.push_back(static_cast<int32_t>(first + members));
  }
  return columns;
}

bool same_class(const LaneClass& a, const LaneClass& b, int lanes) {
  return a.lanes == b.lanes && std::equal(a.offset, a.offset + lanes, b.offset) &&
         std::equal(a.end, a.end + lanes, b.end) && std::equal(a.relative, a.relative + lanes, b.relative);
}

void find_reach(LaneClass& c, int lanes) {
  const int32_t* offset = c.offset;
  const int32_t last = offset[lanes - 1];
  int32_t low = 1, high = 1;  // lanes at the first lane's column; lanes that each begin one column after the last
  while (low < lanes && offset[low] == 0) ++low;
  while (high < lanes && offset[high] == high) ++high;
  if (low == lanes) {
    c.reach = Reach::kUniform;
  } else if (high == lanes) {
    c.reach = Reach::kRegular;
  } else if (std::all_of(offset + high, offset + lanes, [&](int32_t o) { return o == last; }) && last == high - 1) {
    c.reach = Reach::kHigh, c.split = high;
  } else if (last == lanes - low) {
    c.reach = Reach::kLow, c.split = low;
    for (int32_t lane = low; lane < lanes; ++lane)
      if (offset[lane] != lane - low + 1) c.reach = Reach::kPermute;
  }
}

void add_block(Plan& plan, const Columns& columns, int32_t column, int32_t count) {
  Block block;
  block.column = column;
  block.key_column = columns.key_column[column];
  LaneClass lane_class;
  lane_class.lanes = count;
  for (int lane = 0; lane < plan.lanes; ++lane) {
    const int32_t c = column + std::min(lane, count - 1);
    lane_class.offset[lane] = columns.key_column[c] - block.key_column;
    lane_class.end[lane] = columns.key_end[c] - block.key_column;
    lane_class.relative[lane] = columns.relative[c];
  }
  const auto found = std::find_if(plan.classes.begin(), plan.classes.end(),
                                  [&](const LaneClass& c) { return same_class(c, lane_class, plan.lanes); });
  block.lane_class = static_cast<int32_t>(found - plan.classes.begin());
  if (found == plan.classes.end()) {
    const auto slots = [&](int lane) { return lane_class.end[lane] - lane_class.offset[lane]; };
    lane_class.width = lane_class.end[count - 1];
    lane_class.slots = lane_class.whole = slots(0);
    for (int lane = 1; lane < count; ++lane) {
      lane_class.slots = std::max(lane_class.slots, slots(lane));
      lane_class.whole = std::min(lane_class.whole, slots(lane));
    }
    find_reach(lane_class, plan.lanes);
    for (int lane = plan.lanes - 1; lane >= 0; --lane) {
      const bool runs_on = lane + 1 < plan.lanes && lane_class.offset[lane + 1] == lane_class.offset[lane] + 1 &&
                           slots(lane + 1) == lane_class.slots;
      const bool longest = slots(lane) == lane_class.slots;
      lane_class.run_end[lane] = !longest ? -1 : runs_on ? lane_class.run_end[lane + 1] : lane;
    }
    for (int32_t u = 0; u < lane_class.width; ++u) {
      int32_t first = 0, last = count - 1;
      while (first < count && lane_class.end[first] <= u) ++first;
      while (last >= 0 && lane_class.offset[last] > u) --last;
      lane_class.first_lane.push_back(first);
      lane_class.last_lane.push_back(last);
    }
    plan.classes.push_back(std::move(lane_class));
  }
  plan.blocks.push_back(block);
}

// As many queries from `column` on as one block may hold of a group: whose windows begin within a vector of columns. A
// window begins at its query at the latest, so all lanes of a vector from a group's beginning do.
int32_t block_lanes(const Columns& columns, int32_t column, int32_t left, int32_t lanes) {
  int32_t count = 1;
  while (count < std::min(left, lanes) && columns.key_column[column + count] < columns.key_column[column] + lanes)
    ++count;
  return count;
}

// A block begins where a group begins or inside one; small groups share a block whole. So the windows of a block
// begin within one vector of key columns, and one in-register permutation reaches them.
void cut_blocks(const Problem& problem, Plan& plan) {
  const Columns columns = lay_out_columns(problem, plan);
  const int32_t lanes = plan.lanes;
  int32_t column = 0;
  for (size_t group = 0; group < columns.group_end.size();) {
    const int32_t left = columns.group_end[group] - column;
    const int32_t count = block_lanes(columns, column, left, lanes);
    if (left >= lanes || count < left) {
      add_block(plan, columns, column, count);
      column += count;
      if (column == columns.group_end[group]) ++group;
      continue;
    }
    const bool at_start = group == 0 ? column == 0 : column == columns.group_end[group - 1];
    int32_t end = columns.group_end[group++];
    while (at_start && group < columns.group_end.size() && columns.group_end[group] - column <= lanes)
      end = columns.group_end[group++];
    add_block(plan, columns, column, end - column);
    column = end;
  }
}

// Key positions along the banded axis that the queries [begin, end) see.
struct Span {
  int64_t begin, end;
};

Span keys_of(const Problem& problem, const Plan& plan, int64_t members, int64_t begin, int64_t end) {
  if (plan.band_axis == kX) {
    const Block& last = plan.blocks[end - 1];
    return {plan.blocks[begin].key_column, last.key_column + plan.classes[last.lane_class].width};
  }
  const Axis axis = plan.band_axis;
  const int64_t kernel = problem.kernel[axis], stride = problem.stride[axis];
  return {window_begin(begin, members, kernel, stride, problem.causal[axis]),
          window_end(end - 1, members, kernel, stride, problem.causal[axis])};
}

struct Band {
  int64_t begin, end;
  int64_t add_below, add_from;
};

int64_t most_bands(const Problem& problem, const Plan& plan, int64_t members) {
  // So long that every other band's keys are disjoint: windows begin up to a stride later than without one.
  const int64_t reach = problem.kernel[plan.band_axis] + problem.stride[plan.band_axis] - 1;
  const int64_t least = plan.band_axis == kX ? max_of(kMinBandBlocks, 2 * ceil_div(reach, plan.lanes) + 1)
                                             : max_of(kMinBandRows, 2 * reach);
  return max_of(1, members / least);
}

std::vector<Band> cut_bands(const Problem& problem, const Plan& plan, int64_t members, int64_t wanted, bool exclusive) {
  int64_t count = min_of(wanted, most_bands(problem, plan, members));
  if (exclusive && count == 2) count = 1;  // they would run one after the other
  std::vector<Band> bands;
  for (int64_t i = 0; i < count; ++i)
    bands.push_back({members * i / count, members * (i + 1) / count, INT32_MIN, INT32_MAX});
  for (int64_t i = 1; exclusive && i < count; i += 2) {
    bands[i].add_below = keys_of(problem, plan, members, bands[i - 1].begin, bands[i - 1].end).end;
    if (i + 1 < count) bands[i].add_from = keys_of(problem, plan, members, bands[i + 1].begin, bands[i + 1].end).begin;
  }
  return bands;
}

// The bands of one map, for each of the heads of keys; of one phase only unless it is negative.
void add_items(const Problem& problem, Plan& plan, int64_t batch, int64_t z_group, int64_t y_group, int64_t head0,
               int64_t heads, int64_t wanted, int phase) {
  const int64_t zs = group_length(problem.extent[kZ], problem.dilation[kZ], z_group);
  const int64_t ys = group_length(problem.extent[kY], problem.dilation[kY], y_group);
  const int64_t xs = static_cast<int64_t>(plan.blocks.size());
  const int64_t members = plan.band_axis == kZ ? zs : plan.band_axis == kY ? ys : xs;
  const auto bands = cut_bands(problem, plan, members, wanted, phase >= 0);
  for (size_t i = 0; i < bands.size(); ++i) {
    if (phase >= 0 && i % 2 != static_cast<size_t>(phase)) continue;
    Item item{};
    item.batch = static_cast<int32_t>(batch);
    item.z_group = static_cast<int32_t>(z_group), item.y_group = static_cast<int32_t>(y_group);
    item.z1 = static_cast<int32_t>(zs), item.y1 = static_cast<int32_t>(ys), item.block1 = static_cast<int32_t>(xs);
    int32_t& begin = plan.band_axis == kZ ? item.z0 : plan.band_axis == kY ? item.y0 : item.block0;
    int32_t& end = plan.band_axis == kZ ? item.z1 : plan.band_axis == kY ? item.y1 : item.block1;
    begin = static_cast<int32_t>(bands[i].begin), end = static_cast<int32_t>(bands[i].end);
    item.add_below = static_cast<int32_t>(bands[i].add_below);
    item.add_from = static_cast<int32_t>(bands[i].add_from);
    for (int64_t head = head0; head < head0 + heads; ++head) {
      item.head = static_cast<int32_t>(head);
      plan.items.push_back(item);
    }
  }
}

// As many heads of keys as are worth fetching together with their heads of query, but in the backward pass fewer where
// pieces of work are few: unlike a band, a head shares no keys with its neighbours.
int64_t heads_together(const Problem& problem, int64_t group, int64_t maps, bool exclusive) {
  const int64_t narrow = min_of(problem.head_dim, problem.head_dim_v) * problem.element_bytes();
  const int64_t wide = max_of(problem.head_dim, problem.head_dim_v) * problem.element_bytes();
  const int64_t most = min_of(problem.heads_kv, max_of(1, kTokenBytes / (wide * group)));
  const int64_t least = min_of(problem.heads_kv, ceil_div(kLineBytes, narrow));
  return exclusive ? max_of(least, min_of(most, problem.heads_kv * maps / kHeadPieces)) : most;
}

void cut_items(const Problem& problem, Plan& plan, bool exclusive) {
  const int64_t z_groups = min_of(problem.dilation[kZ], problem.extent[kZ]);
  const int64_t y_groups = min_of(problem.dilation[kY], problem.extent[kY]);
  const int64_t group = problem.heads / problem.heads_kv;  // heads of query that read one head of keys
  const int64_t maps = problem.batch * z_groups * y_groups;
  int64_t together = heads_together(problem, group, maps, exclusive);
  if (!exclusive) {  // heads apart where bands alone do not occupy all threads
    const int64_t members = plan.band_axis == kX
                                ? static_cast<int64_t>(plan.blocks.size())
                                : group_length(problem.extent[plan.band_axis], problem.dilation[plan.band_axis], 0);
    const int64_t places = maps * most_bands(problem, plan, members);
    while (together > 1 && places * ceil_div(problem.heads_kv, together) < problem.threads)
      together = ceil_div(together, 2);
  }
  plan.heads_per_chunk = static_cast<int32_t>(together * group);
  const int64_t head_groups = ceil_div(problem.heads_kv, together);
  const int64_t pieces = max_of(1, maps * head_groups);
  const int64_t forward_pieces = kPiecesPerThread * problem.threads;
  // Bands of the backward pass take turns, half of them at a time.
  const int64_t bands = !exclusive                 ? ceil_div(forward_pieces, pieces)
                        : pieces < kBackwardPieces ? 2 * ceil_div(kBackwardPieces, pieces)
                                                   : 1;
  const auto chunks_of = [&](int64_t places) {
    const int64_t most = exclusive ? kMostChunks : forward_pieces, least = exclusive ? kLeastChunks : forward_pieces;
    const int64_t wanted = max_of(ceil_div(least, head_groups), min_of(most / head_groups, places / kPlacesPerChunk));
    return min_of(places, wanted);
  };
  for (int phase = 0; phase < 2; ++phase) {
    if (phase == 1) plan.phase1 = static_cast<int32_t>(plan.chunks.size());
    for (int64_t head0 = 0; head0 < problem.heads_kv; head0 += together) {
      const int64_t heads = min_of(together, problem.heads_kv - head0);
      const int64_t first = static_cast<int64_t>(plan.items.size());
      for (int64_t batch = 0; batch < problem.batch; ++batch)
        for (int64_t z_group = 0; z_group < z_groups; ++z_group)
          for (int64_t y_group = 0; y_group < y_groups; ++y_group)
            add_items(problem, plan, batch, z_group, y_group, head0, heads, bands, exclusive ? phase : -1);
      const int64_t places = (static_cast<int64_t>(plan.items.size()) - first) / heads;
      const int64_t chunks = chunks_of(places);
      for (int64_t i = 0; i < chunks; ++i)
        plan.chunks.push_back({static_cast<int32_t>(first + places * i / chunks * heads),
                               static_cast<int32_t>(first + places * (i + 1) / chunks * heads),
                               static_cast<int32_t>(head0 * group), static_cast<int32_t>(heads * group)});
    }
    if (!exclusive) break;
  }
  if (!exclusive) plan.phase1 = static_cast<int32_t>(plan.chunks.size());
}

// Lanes that all see all of so many columns.
void add_everyone(Plan& plan, int32_t columns) {
  for (const LaneClass& c : plan.classes) {
    LaneClass all{};
    all.lanes = c.lanes, all.width = all.slots = all.whole = columns, all.reach = Reach::kUniform;
    for (int32_t lane = 0; lane < plan.lanes; ++lane) all.end[lane] = columns, all.run_end[lane] = lane;
    all.first_lane.assign(static_cast<size_t>(columns), 0);
    all.last_lane.assign(static_cast<size_t>(columns), c.lanes - 1);
    plan.everyone.push_back(std::move(all));
  }
}

void measure_sums(const Problem& problem, Plan& plan) {
  int64_t batches = 1;
  for (const Chunk& chunk : plan.chunks)
    batches = max_of(batches, plan.items[chunk.item1 - 1].batch - plan.items[chunk.item0].batch + 1);
  plan.places_per_chunk = static_cast<int32_t>(batches * plan.heads_per_chunk / (problem.heads / problem.heads_kv));
}

void measure_scratch(const Problem& problem, Plan& plan) {
  plan.tile_blocks = static_cast<int32_t>(max_of(1, kTileColumns / plan.lanes));
  for (size_t i = 0; i < plan.blocks.size(); ++i) {
    const Block &first = plan.blocks[i], &last = plan.blocks[std::min(i + plan.tile_blocks, plan.blocks.size()) - 1];
    const int32_t end = last.key_column + plan.classes[last.lane_class].width;
    plan.max_columns = std::max(plan.max_columns, end - first.key_column);
  }
  const int64_t ys = group_length(problem.extent[kY], problem.dilation[kY], 0);
  if (problem.extent[kZ] > 1)
    plan.ring_rows = static_cast<int32_t>(problem.kernel[kZ] * ys);
  else
    plan.ring_rows = static_cast<int32_t>(min_of(ys, most_rows_seen(problem, plan.rows_per_block)));
}

}  // namespace

int64_t most_rows_seen(const Problem& problem, int64_t rows) {
  const int64_t stride = problem.stride[kY];
  return problem.kernel[kY] + ceil_div(rows - 1, stride) * stride;
}

Plan make_plan(const Problem& problem, int lanes, int rows_per_block, bool exclusive) {
  Plan plan;
  plan.lanes = lanes;
  plan.rows_per_block = rows_per_block;
  plan.band_axis = problem.extent[kZ] > 1 ? kZ : problem.extent[kY] > 1 ? kY : kX;
  cut_blocks(problem, plan);
  cut_items(problem, plan, exclusive);
  if (problem.additional > 0) {
    add_everyone(plan, static_cast<int32_t>(problem.additional));
    measure_sums(problem, plan);
  }
  measure_scratch(problem, plan);
  return plan;
}

}  // namespace natten_core::cpu
