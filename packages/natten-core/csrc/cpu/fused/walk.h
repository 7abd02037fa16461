// The way through the maps of a chunk, and what is prefetched on it.
#pragma once

#include "ahead.h"
#include "map.h"

namespace natten_core::cpu::NATTEN_ISA {

// Where a walk is: the query rows [y, y + rows) at z, and the key rows [oldest, next) that they see.
struct Stop {
  int64_t z, y;
  int rows;
  int64_t oldest, next;
};

NATTEN_KERNEL Stop stop_at(const Map& map, int64_t z, int64_t y) {
  const int64_t left = map.item.y1 - y;
  Stop stop{z, y, static_cast<int>(ceil_div(left, ceil_div(left, kScoreRows))), 0, 0};  // near-equal parts
  if (map.p.extent[kZ] == 1) {
    stop.oldest = map.y_begin(y), stop.next = map.y_end(y + stop.rows - 1);
  } else {
    stop.oldest = map.z_begin(z) * map.y_length, stop.next = map.z_end(z) * map.y_length;
  }
  return stop;
}

NATTEN_KERNEL Stop first_stop(const Map& map) { return stop_at(map, map.item.z0, map.item.y0); }

// False at the end of the map.
NATTEN_KERNEL bool next_stop(const Map& map, Stop& stop) {
  const bool row_done = stop.y + stop.rows == map.item.y1;
  if (row_done && stop.z + 1 == map.item.z1) return false;
  stop = row_done ? stop_at(map, stop.z + 1, map.item.y0) : stop_at(map, stop.z, stop.y + stop.rows);
  return true;
}

// Key columns that an item sees: [begin, end).
NATTEN_KERNEL void key_columns(const Plan& plan, const Item& item, int64_t& begin, int64_t& end) {
  const Block &first = plan.blocks[item.block0], &last = plan.blocks[item.block1 - 1];
  begin = first.key_column, end = last.key_column + plan.classes[last.lane_class].width;
}

// A tensor of a pass, and the elements of its tokens.
struct Touch {
  const Tensor* tensor = nullptr;
  int64_t dim = 0;
};

// The tensors of a pass, by when they are touched: as key rows are packed; as query rows are computed.
struct Touched {
  Touch keys[4], queries[3];
};

// Asks for what comes after block b of `stop` and the map's head: the next head's or block's queries, and its share of
// the key rows that the next stop packs. `next_tile` may be null.
template <class E, class S>
NATTEN_KERNEL void look_ahead(const Sizes<E>& s, const Map& map, const Item* next_tile, const Touched& touched,
                              const Stop& stop, int64_t packed, int32_t b, Ahead& ahead) {
  const Map next_map(s.p, next_tile ? *next_tile : map.item);
  const Map* there = &map;
  Stop next = stop;
  if (!next_stop(map, next)) {
    if (!next_tile) packed = next.next;
    there = next_tile ? &next_map : nullptr;
    if (there) next = first_stop(next_map), packed = next.oldest;
  }
  const bool last_head = map.head + 1 == map.head0 + map.heads;
  const int32_t blocks = (map.item.block1 - map.item.block0) * map.heads;  // and heads
  const int32_t at = (b - map.item.block0) * map.heads + (map.head - map.head0);
  const bool last = at + 1 == blocks;
  if (!last || there) {
    Map queries = last ? *there : map;
    queries.head = last_head ? queries.head0 : map.head + 1;
    const Block& block = s.plan.blocks[last ? queries.item.block0 : last_head ? b + 1 : b];
    const int64_t end = block.column + s.plan.classes[block.lane_class].lanes;
    const Stop& where = last ? next : stop;
    for (const Touch& t : touched.queries)
      for (int r = 0; t.tensor && r < where.rows; ++r)
        ahead.add(queries.row<S>(*t.tensor, where.z, where.y + r), t.dim, t.tensor->axis[kX], block.column, end);
  }
  if (!there) return;
  int64_t begin, end;
  key_columns(s.plan, there->item, begin, end);
  const int64_t columns = end - begin, first = begin + columns * at / blocks;
  end = begin + columns * (at + 1) / blocks;
  for (int64_t row = max_of(packed, next.oldest); row < next.next; ++row)
    for (const Touch& t : touched.keys)
      if (t.tensor)
        ahead.add(there->key_row<S>(*t.tensor, row / there->y_length, row % there->y_length), t.dim, t.tensor->axis[kX],
                  first, end);
}

// Walks a tile: before each group of query rows, key rows that no window needs any more are given to `drop` and those
// that one needs now to `pack`, each as a RingRow; then `body(map, work, ahead)` gets one block of lanes of one head at
// a time, and what to prefetch meanwhile. In the end what is left is dropped.
template <class E, class S, class Drop, class Pack, class Body>
NATTEN_KERNEL void walk(const Sizes<E>& s, const Item& item, const Item* next_tile, const Touched& touched,
                        RowGroup group, int32_t head0, Drop drop, Pack pack, Body body) {
  Map map(s.p, item);
  Ring ring{s.plan.ring_rows};
  int64_t begin, end;
  key_columns(s.plan, item, begin, end);
  const auto row = [&](int64_t number) {
    return RingRow{map, number / map.y_length, number % map.y_length, ring.slot(number), begin, end};
  };
  const auto drop_until = [&](int64_t oldest) {
    for (; ring.oldest < min_of(oldest, ring.next); ++ring.oldest) drop(row(ring.oldest));
  };
  Ahead ahead(s.plan);
  Stop stop = first_stop(map);
  do {
    group.z = stop.z, group.y = stop.y, group.rows = stop.rows;
    drop_until(stop.oldest);
    if (ring.next <= stop.oldest) ring.next = ring.oldest = stop.oldest;
    for (; ring.next < stop.next; ++ring.next) pack(row(ring.next));
    fill_group<E>(s, map, ring, group);
    for (int32_t b = item.block0; b < item.block1; ++b) {
      const Block& block = s.plan.blocks[b];
      for (map.head = map.head0; map.head < map.head0 + map.heads; ++map.head) {
        ahead.clear();
        look_ahead<E, S>(s, map, next_tile, touched, stop, ring.next, b, ahead);
        body(map,
             Work{s.plan.classes[block.lane_class], group, block.lane_class, map.head - head0, block.column,
                  block.key_column - begin, begin},
             ahead);
      }
    }
  } while (next_stop(map, stop));
  drop_until(ring.next);
}

// Calls body(tile, next tile or null) for the tiles of a chunk's items, each an item of its own.
template <class Body>
NATTEN_KERNEL void for_tiles(const Plan& plan, const Chunk& chunk, Body body) {
  Item tile, next;
  bool any = false;
  for (int32_t i = chunk.item0; i < chunk.item1; ++i) {
    const Item& item = plan.items[i];
    next = item;
    next.add_columns_below = 0;
    for (int32_t b = item.block0; b < item.block1; b += plan.tile_blocks) {
      next.block0 = b, next.block1 = static_cast<int32_t>(min_of(b + plan.tile_blocks, item.block1));
      if (any) body(tile, &next);
      any = true;
      tile = next;
      const Block& last = plan.blocks[next.block1 - 1];
      next.add_columns_below = last.key_column + plan.classes[last.lane_class].width;
    }
  }
  if (any) body(tile, nullptr);
}

}  // namespace natten_core::cpu::NATTEN_ISA
