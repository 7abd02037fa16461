// What the forward and the backward pass share: sizes, one thread's scratch memory, the ring of packed key rows, and
// the bias as vectors of lanes.
#pragma once

#include "../plan.h"
#include "natten_core/neighborhood.h"
#include "pack.h"
#include "scores.h"

namespace natten_core::cpu::NATTEN_ISA {

constexpr int64_t round_up(int64_t x, int64_t multiple) { return (x + multiple - 1) / multiple * multiple; }

// Row stride of planes: never a multiple of 1 KiB, which would map every plane to the same cache sets.
template <class T>
NATTEN_KERNEL int64_t plane_columns(int64_t columns) {
  const int64_t width = round_up(columns, kLanes<T>);
  return width * static_cast<int64_t>(sizeof(T)) % 1024 == 0 ? width + kLanes<T> : width;
}

template <class T>
struct Sizes {
  const Problem& p;
  const Plan& plan;
  int head_dim, padded_dim, slots, key_rows, window;  // slots: of one key row; window: slots * key_rows
  int64_t columns, plane, row;    // elements of one key row packed as planes and as rows
  int64_t bias_rows, bias_class;  // bias table: [class][bias row (2Kz-1)(2Ky-1)][slot][lane]
  int64_t bias_columns;           // 2Kx-1
  int64_t bias_head;              // elements of one head's table

  Sizes(const Problem& problem, const Plan& work)
      : p(problem),
        plan(work),
        head_dim(static_cast<int>(problem.head_dim)),
        padded_dim(static_cast<int>(round_up(problem.head_dim, kLanes<T>))),
        slots(static_cast<int>(problem.kernel[kX])),
        key_rows(static_cast<int>(problem.kernel[kZ] * problem.kernel[kY])),
        window(slots * key_rows),
        columns(plane_columns<T>(work.max_columns)),
        plane(columns * problem.head_dim),
        row(static_cast<int64_t>(work.max_columns) * padded_dim),
        bias_rows((2 * problem.kernel[kZ] - 1) * (2 * problem.kernel[kY] - 1)),
        bias_class(bias_rows * slots * kLanes<T>),
        bias_columns(2 * problem.kernel[kX] - 1),
        bias_head(bias_class * static_cast<int64_t>(work.classes.size())) {}

  int64_t bias_row(int64_t z_relative, int64_t y_relative) const {
    return (z_relative * (2 * p.kernel[kY] - 1) + y_relative) * slots * kLanes<T>;
  }
  int64_t block_scores() const { return static_cast<int64_t>(kScoreRows) * window * kLanes<T>; }
  int64_t block_planes() const { return static_cast<int64_t>(kScoreRows) * head_dim * kLanes<T>; }
  int64_t block_rows() const { return static_cast<int64_t>(kScoreRows) * kLanes<T> * padded_dim; }
};

// Hands out pieces of one allocation, each on a 64-byte boundary. With a null base it only counts.
template <class T>
struct Arena {
  T* base;
  int64_t used = 0;
  T* take(int64_t elements) {
    T* piece = base ? base + used : nullptr;
    used += round_up(elements, 64 / static_cast<int64_t>(sizeof(T)));
    return piece;
  }
};

// The map of one (batch entry, head, z group, y group): undilated, in positions.
struct Map {
  const Problem& p;
  const Item& item;
  int64_t z_length, y_length;

  Map(const Problem& problem, const Item& work)
      : p(problem),
        item(work),
        z_length(group_length(problem.extent[kZ], problem.dilation[kZ], work.z_group)),
        y_length(group_length(problem.extent[kY], problem.dilation[kY], work.y_group)) {}

  int64_t z_start(int64_t z) const { return window_start(z, z_length, p.kernel[kZ]); }
  int64_t y_start(int64_t y) const { return window_start(y, y_length, p.kernel[kY]); }
  // Memory of the row at positions (z, y), column 0.
  template <class T>
  T* row(const Tensor& t, int64_t z, int64_t y) const {
    return static_cast<T*>(t.data) + item.batch * t.batch + item.head * t.head +
           (z * p.dilation[kZ] + item.z_group) * t.axis[kZ] + (y * p.dilation[kY] + item.y_group) * t.axis[kY];
  }
};

// Key rows of a map are numbered z * y_length + y, packed in that order when a window first needs them, and dropped
// when no window needs them any more: the rows in need never exceed the ring.
struct Ring {
  int64_t rows;        // capacity
  int64_t next = 0;    // first row not yet packed
  int64_t oldest = 0;  // first row not yet dropped
  int64_t slot(int64_t row) const { return row % rows; }
};

template <class T>
NATTEN_KERNEL void fill_bias(const Sizes<T>& s, const T* rpb, const Chunk& chunk, T* table) {
  constexpr int n = kLanes<T>;
  const int64_t size = s.bias_rows * s.bias_columns;
  for (const T* bias = rpb + chunk.head0 * size; bias < rpb + (chunk.head0 + chunk.heads) * size; bias += size)
    for (const LaneClass& c : s.plan.classes)
      for (int64_t row = 0; row < s.bias_rows; ++row)
        for (int j = 0; j < s.slots; ++j, table += n)
          for (int lane = 0; lane < n; ++lane) table[lane] = bias[row * s.bias_columns + c.relative[lane] + j];
}

// The memory of each lane's token; lanes past the last query repeat it.
template <class T>
NATTEN_KERNEL void lane_tokens(const Plan& plan, const T* row, int64_t stride, int64_t column, int64_t last,
                               const T* (&tokens)[kLanes<T>]) {
  for (int lane = 0; lane < kLanes<T>; ++lane)
    tokens[lane] = row + plan.coordinate[min_of(column + lane, last)] * stride;
}

// planes[d][column - begin] for the columns [begin, end)
template <class T>
NATTEN_KERNEL void pack_key_planes(const Sizes<T>& s, const T* row, int64_t stride, int64_t begin, int64_t end,
                                   T* planes) {
  for (int64_t column = begin; column < end; column += kLanes<T>) {
    const T* tokens[kLanes<T>];
    lane_tokens<T>(s.plan, row, stride, column, end - 1, tokens);
    pack_planes<T>(tokens, s.head_dim, T(1), planes + (column - begin), s.columns);
  }
}

// rows[column - begin][d]
template <class T>
NATTEN_KERNEL void pack_key_rows(const Sizes<T>& s, const T* row, int64_t stride, int64_t begin, int64_t end, T* rows) {
  for (int64_t column = begin; column < end; ++column, rows += s.padded_dim)
    pack_row<T>(row + s.plan.coordinate[column] * stride, s.head_dim, T(1), rows);
}

// Calls body(z, y, rows) for each group of query rows, near-equal parts of at most kScoreRows.
template <class Body>
NATTEN_KERNEL void for_query_rows(const Item& item, Body body) {
  for (int64_t z = item.z0; z < item.z1; ++z) {
    int64_t parts = ceil_div(item.y1 - item.y0, kScoreRows);
    for (int64_t y = item.y0; y < item.y1; --parts) {
      const int64_t rows = ceil_div(item.y1 - y, parts);
      body(z, y, static_cast<int>(rows));
      y += rows;
    }
  }
}

// Calls body(key z, key y, first, end) for each key row that some of the query rows [y, y + rows) at z see: those
// from `first` to before `end`.
template <class Body>
NATTEN_KERNEL void for_key_rows(const Map& map, int64_t z, int64_t y, int rows, Body body) {
  const int64_t* kernel = map.p.kernel;
  const int64_t z0 = map.z_start(z), y0 = map.y_start(y), y1 = map.y_start(y + rows - 1) + kernel[kY];
  for (int64_t kz = z0; kz < z0 + kernel[kZ]; ++kz) {
    for (int64_t ky = y0; ky < y1; ++ky) {
      int first = 0, end = rows;
      while (map.y_start(y + first) + kernel[kY] <= ky) ++first;
      while (map.y_start(y + end - 1) > ky) --end;
      body(kz, ky, first, end);
    }
  }
}

// A block of lanes in a group of query rows, and where its keys lie in the packed rows.
struct Work {
  const LaneClass& c;
  int lane_class, head;  // head counts from the chunk's first
  int64_t z, y, column, key_column;  // key_column counts from the first packed column
  int rows;
};

// First slot (in units of slots of one key row) of key row (kz, ky) in the window of query row (z, y).
NATTEN_KERNEL int64_t slot_row(const Map& map, int64_t z, int64_t y, int64_t kz, int64_t ky) {
  return (kz - map.z_start(z)) * map.p.kernel[kY] + ky - map.y_start(y);
}

// scores[row][window slot][lane] of all query rows of the work. `bias` is the lane class's table, or null.
template <class T>
static void window_scores(const Sizes<T>& s, const Map& map, const Ring& ring, const Work& w, const T* query,
                          const T* key_planes, const T* bias, const T* zeros, T* out) {
  constexpr int n = kLanes<T>;
  ScoreArgs<T> a;
  a.query_step = static_cast<int64_t>(s.head_dim) * n, a.key_stride = s.columns;
  a.init = zeros, a.init_step = bias ? static_cast<int64_t>(s.slots) * n : 0;
  for (int lane = 0; lane < n; ++lane) a.offset[lane] = w.c.offset[lane];
  a.head_dim = s.head_dim, a.slots = s.slots;
  for_key_rows(map, w.z, w.y, w.rows, [&](int64_t kz, int64_t ky, int first, int end) {
    a.query = query + first * a.query_step;
    a.key = key_planes + ring.slot(kz * map.y_length + ky) * s.plane + w.key_column;
    if (bias) a.init = bias + s.bias_row(kz - w.z + s.p.kernel[kZ] - 1, ky - (w.y + first) + s.p.kernel[kY] - 1);
    for (int r = first; r < end; ++r)
      a.scores[r - first] = out + (r * s.window + slot_row(map, w.z, w.y + r, kz, ky) * s.slots) * n;
    scores<T>(a, end - first, w.c.regular);
  });
}

// The packed rows of the window of query row (z, y), from the work's first key column on.
template <class T>
NATTEN_KERNEL void window_rows(const Sizes<T>& s, const Map& map, const Ring& ring, const Work& w, int64_t y,
                               const T* rows, const T** pointers) {
  const int64_t z0 = map.z_start(w.z), y0 = map.y_start(y), kernel_y = s.p.kernel[kY];
  for (int t = 0; t < s.key_rows; ++t) {
    const int64_t row = (z0 + t / kernel_y) * map.y_length + y0 + t % kernel_y;
    pointers[t] = rows + ring.slot(row) * s.row + w.key_column * s.padded_dim;
  }
}

// Walks an item: before each group of query rows `advance(oldest, next)` must drop the key rows before `oldest` and
// pack those up to `next`; then `body` gets one block of lanes at a time.
template <class Advance, class Body>
NATTEN_KERNEL void walk(const Plan& plan, const Map& map, int64_t column0, int head, Advance advance, Body body) {
  const Item& item = map.item;
  const int64_t* kernel = map.p.kernel;
  for_query_rows(item, [&](int64_t z, int64_t y, int rows) {
    const int64_t plane = map.z_start(z) * map.y_length;
    const bool one_plane = map.p.extent[kZ] == 1;
    advance(one_plane ? map.y_start(y) : plane,
            one_plane ? map.y_start(y + rows - 1) + kernel[kY] : plane + kernel[kZ] * map.y_length);
    for (int32_t b = item.block0; b < item.block1; ++b) {
      const Block& block = plan.blocks[b];
      body(Work{plan.classes[block.lane_class], block.lane_class, head, z, y, block.column, block.key_column - column0,
                rows});
    }
  });
}

// Calls body(item) for each tile of the item, an item of its own.
template <class Body>
NATTEN_KERNEL void for_tiles(const Plan& plan, const Item& item, Body body) {
  Item tile = item;
  tile.add_columns_below = 0;
  for (int32_t b = item.block0; b < item.block1; b += plan.tile_blocks) {
    tile.block0 = b, tile.block1 = static_cast<int32_t>(min_of(b + plan.tile_blocks, item.block1));
    body(tile);
    const Block& last = plan.blocks[tile.block1 - 1];
    tile.add_columns_below = last.key_column + plan.classes[last.lane_class].width;
  }
}

// Key columns that an item sees: [begin, end).
NATTEN_KERNEL void key_columns(const Plan& plan, const Item& item, int64_t& begin, int64_t& end) {
  const Block &first = plan.blocks[item.block0], &last = plan.blocks[item.block1 - 1];
  begin = first.key_column, end = last.key_column + plan.classes[last.lane_class].width;
}

}  // namespace natten_core::cpu::NATTEN_ISA
