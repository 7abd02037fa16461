// How a problem is cut into vectors, bands and chunks of work: decided once per call. Every result is bit-equal for any
// number of threads: a query's output does not depend on the cut, and the sums of the backward pass, which do, are cut
// by the problem alone.
//
// Along x, the columns of all dilation groups are laid side by side ("columns", group by group), and queries are
// taken a vector of lanes at a time ("block"). Along z and y each pair of dilation groups is an undilated map. Windows
// of any stride, causal or not, are known by where they begin and end: neither decreases from one position to the next.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "natten_core/problem.h"

namespace natten_core::cpu {

constexpr int kMaxLanes = 16;

// How a vector of keys, one per lane, is had from a row of columns for one slot j of the windows.
enum class Reach {
  kRegular,  // windows one column apart: the columns from j on
  kUniform,  // one window for all: column j in every lane
  kLow,  // a map's left border: the first lanes as kUniform, the others as kRegular
  kHigh,  // a map's right border: the other way round
  kPermute,  // anything else
};

// What the lanes of a block have in common: blocks of equal class share bias tables.
struct LaneClass {
  int32_t lanes = 0;  // queries in the block; the vector's other lanes repeat the last one
  int32_t width = 0;  // key columns that the block's windows cover together
  int32_t slots = 0;  // of the longest window: key columns of one key row
  int32_t whole = 0;  // of the shortest: slots that every lane has
  Reach reach = Reach::kPermute;
  int32_t split = 0;  // kLow, kHigh: the first lane of the second kind
  int32_t offset[kMaxLanes];  // first key column of lane l, from the block's first key column; < lanes of a vector
  int32_t end[kMaxLanes];  // one past its last, likewise; slots behind it belong to no key
  int32_t relative[kMaxLanes];  // row of the bias table that slot 0 of lane l reads; slot j reads relative + j
  // The lanes whose windows hold key column u (from the block's first) are first_lane[u] .. last_lane[u].
  std::vector<int32_t> first_lane;
  std::vector<int32_t> last_lane;
  // The last lane of those from lane l on whose windows have all the slots and are one column apart; -1 if its own has
  // fewer.
  int32_t run_end[kMaxLanes];

  bool is_whole() const { return whole == slots; }
};

struct Block {
  int32_t column = 0;  // first query column
  int32_t key_column = 0;  // first key column
  int32_t lane_class = 0;
};

// A part of one (batch entry, head of keys, z group, y group), for all heads of query that read this head: positions
// [z0, z1) x [y0, y1) and blocks [block0, block1).
// At most one of the ranges is less than everything; its axis is the one that bands cut. Within an item, blocks are
// swept over the rows a few at a time ("tile"), so that the packed keys of a tile stay in cache however wide the map.
struct Item {
  int32_t batch, head, z_group, y_group;
  int32_t z0, z1, y0, y1, block0, block1;
  // Key positions along the banded axis that an item of the other phase has written before (add), else store.
  int32_t add_below, add_from;
  // Key columns before this were written by an earlier tile of the same item.
  int32_t add_columns_below;
};

// Items that one thread works through in order, of a few neighbouring heads: a token's heads lie side by side in
// memory, and taking them in turn makes use of every cache line that was fetched.
struct Chunk {
  int32_t item0, item1, head0, heads;  // heads of query
};

// A chunk's own sums in a backward pass, which are added up over the chunks in order; null where none are wanted.
struct ChunkSums {
  void* bias;  // [heads, bias rows, 2Kx-1]
  double* additional;  // [places of heads of keys, see place_of][additional keys' gradients, and values']
};

struct Plan {
  int lanes = 0;  // of a vector
  Axis band_axis = kX;
  std::vector<int32_t> coordinate;  // [X] x coordinate of each column
  std::vector<Block> blocks;
  std::vector<LaneClass> classes;
  std::vector<LaneClass> everyone;  // as `classes`, for windows that are the additional keys; empty if there are none
  std::vector<Item> items;
  std::vector<Chunk> chunks;  // items of phase 0, then of phase 1
  int32_t phase1 = 0;  // first chunk of phase 1
  int32_t heads_per_chunk = 1;  // of query
  int32_t places_per_chunk = 1;  // most batch entries of a chunk, times heads of keys
  int32_t tile_blocks = 1;  // blocks that are swept over the rows together
  int32_t max_columns = 0;  // most key columns that a tile packs
  int32_t ring_rows = 0;  // most key rows that must be held packed at a time
  int32_t rows_per_block = 0;  // query rows that share key loads
};

// Whether every window has two key rows, but for that of a map's first row, so that no pair of rows need hold one that
// a window does not see.
inline bool has_row_pairs(const Problem& p) { return p.kernel[kY] - (p.causal[kY] ? p.stride[kY] - 1 : 0) > 1; }

// The most key rows along y that so many neighbouring query rows see together.
int64_t most_rows_seen(const Problem& problem, int64_t rows);

// `rows_per_block`: how many query rows the kernel takes at a time. `exclusive`: items of one phase must not share
// keys (the backward pass writes to them).
Plan make_plan(const Problem& problem, int lanes, int rows_per_block, bool exclusive);

// The place, among those of its chunk, of the batch entry and the head of keys of an item.
inline int64_t place_of(const Problem& p, const Plan& plan, const Chunk& chunk, const Item& item) {
  const int64_t group = p.heads / p.heads_kv, batch0 = plan.items[static_cast<size_t>(chunk.item0)].batch;
  return (item.batch - batch0) * (chunk.heads / group) + (item.head - chunk.head0 / group);
}

}  // namespace natten_core::cpu
