// Scores on tiles: columns[query row][key column][lane] of one key row at a time, of which a lane's slots are those
// from its offset on. They are moved up by 8, 4, 2 and 1 columns in the lanes whose offset has that bit; what lies
// outside a window stays behind, whatever it is.
#pragma once

#include "../fused/context.h"
#include "moves.h"
#include "sizes.h"

namespace natten_core::cpu::NATTEN_ISA {

// Calls body(r), a constant, for the query rows [first, end).
template <class Body>
NATTEN_KERNEL void for_rows(int first, int end, Body body) {
  if (first <= 0 && 0 < end) body(Constant<0>{});
  if (first <= 1 && 1 < end) body(Constant<1>{});
  if (first <= 2 && 2 < end) body(Constant<2>{});
  if (first <= 3 && 3 < end) body(Constant<3>{});
}
static_assert(kScoreRows == 4);

struct ColumnArgs {
  const BFloat16* keys;  // [column][depth], at the block's first key column
  const Pair* query;     // [query row][depth / 2][lane]
  float* columns;        // [query row][column][lane]
  int64_t query_step, column_step;  // elements from one query row to the next
  int depth, width, tail;
  int first, end;  // query rows
};

// The queries of a block are tiles 0 to 3 for all key rows, if their dims are one tile.
NATTEN_KERNEL void load_query_tiles(Tiles& tiles, const Pair* query, int64_t query_step, int rows) {
  for_rows(0, rows, [&](auto r) __attribute__((always_inline)) {
    constexpr int row = decltype(r)::value;
    tiles.load<row>(query + row * query_step, kRowBytes);
  });
}

template <int Keys, int Result>
NATTEN_KERNEL void shallow_columns(Tiles& tiles, const ColumnArgs& a, int column) {
  tiles.load<Keys>(a.keys + static_cast<int64_t>(column) * kTileDepth, kRowBytes);
  for_rows(a.first, a.end, [&](auto r) __attribute__((always_inline)) {
    constexpr int row = decltype(r)::value;
    tiles.zero<Result>();
    tiles.multiply<Result, Keys, row>();
    tiles.store<Result>(a.columns + row * a.column_step + column * kTileLanes, kRowBytes);
  });
}

NATTEN_KERNEL void deep_columns(Tiles& tiles, const ColumnArgs& a, int column) {
  const BFloat16* keys = a.keys + static_cast<int64_t>(column) * a.depth;
  const int64_t stride = static_cast<int64_t>(a.depth) * 2;
  for_rows(a.first, a.end, [&](auto r) __attribute__((always_inline)) { tiles.zero<decltype(r)::value>(); });
  for (int d = 0; d < a.depth; d += kTileDepth) {
    tiles.load<4>(keys + d, stride);
    for_rows(a.first, a.end, [&](auto r) __attribute__((always_inline)) {
      constexpr int row = decltype(r)::value;
      tiles.load<6>(a.query + row * a.query_step + d / 2 * kTileLanes, kRowBytes);
      tiles.multiply<row, 4, 6>();
    });
  }
  for_rows(a.first, a.end, [&](auto r) __attribute__((always_inline)) {
    constexpr int row = decltype(r)::value;
    tiles.store<row>(a.columns + row * a.column_step + column * kTileLanes, kRowBytes);
  });
}

NATTEN_KERNEL void deep_tail(Tiles& tiles, const ColumnArgs& a, int column) {
  const BFloat16* keys = a.keys + static_cast<int64_t>(column) * a.depth;
  const int64_t stride = static_cast<int64_t>(a.depth) * 2;
  for (int r = a.first; r < a.end; ++r) {
    tiles.zero<7>();
    for (int d = 0; d < a.depth; d += kTileDepth) {
      tiles.load<5>(keys + d, stride);
      tiles.load<6>(a.query + r * a.query_step + d / 2 * kTileLanes, kRowBytes);
      tiles.multiply<7, 5, 6>();
    }
    tiles.store<7>(a.columns + r * a.column_step + column * kTileLanes, kRowBytes);
  }
}

NATTEN_KERNEL void multiply_columns(Tiles& tiles, const ColumnArgs& a) {
  for (int column = 0; column < a.width; column += kTileRows) {
    const bool tail = a.width - column <= a.tail;
    if (a.depth > kTileDepth)
      tail ? deep_tail(tiles, a, column) : deep_columns(tiles, a, column);
    else
      tail ? shallow_columns<5, 7>(tiles, a, column) : shallow_columns<4, 6>(tiles, a, column);
  }
}

struct SlotArgs {
  const float* columns;  // [column][lane], at the first slot's
  const float* bias;     // [slot][lane]
  float* scores;         // [slot][lane]
  float unit;
};

// scores = unit * columns at the lanes' slots + bias
template <int Slots, int Bits>
NATTEN_KERNEL void move_slots(const Moves& moves, const SlotArgs& a) {
  constexpr int n = kTileLanes, reach = kReach<Bits> / 2;
  Vec<float> v[Slots + reach];
  NATTEN_UNROLL
  for (int i = 0; i < Slots + reach; ++i) v[i] = load<float>(a.columns + i * n);
  const auto move = [&](int bit, int count) __attribute__((always_inline)) {
    NATTEN_UNROLL
    for (int i = 0; i < count; ++i)
      v[i] = (Vec<float>)_mm512_mask_mov_ps((__m512)v[i], moves.lanes[bit], (__m512)v[i + (1 << bit)]);
  };
  constexpr int top = Bits == 4 ? 3 : 2;
  if constexpr (Bits > 0) {
    NATTEN_UNROLL
    for (int i = 0; i < Slots + reach; ++i)
      v[i] = (Vec<float>)_mm512_mask_loadu_ps((__m512)v[i], moves.lanes[top], a.columns + (i + (1 << top)) * n);
    if constexpr (Bits == 4) move(2, Slots + 3);
    move(1, Slots + 1);
    move(0, Slots);
  }
  NATTEN_UNROLL
  for (int i = 0; i < Slots; ++i) store<float>(a.scores + i * n, v[i] * a.unit + load<float>(a.bias + i * n));
}

template <int Bits>
static void move_columns(const Moves& moves, SlotArgs a, int slots) {
  constexpr int n = kTileLanes;
  for (; slots >= 8; slots -= 8, a.columns += 8 * n, a.bias += 8 * n, a.scores += 8 * n) move_slots<8, Bits>(moves, a);
  switch (slots) {
    case 1: return move_slots<1, Bits>(moves, a);
    case 2: return move_slots<2, Bits>(moves, a);
    case 3: return move_slots<3, Bits>(moves, a);
    case 4: return move_slots<4, Bits>(moves, a);
    case 5: return move_slots<5, Bits>(moves, a);
    case 6: return move_slots<6, Bits>(moves, a);
    case 7: return move_slots<7, Bits>(moves, a);
  }
}

// Queries against keys, or output gradients against values.
struct Dots {
  TokenTiles sizes;
  int tail;
  int64_t column_rows;   // of one query row's columns
  BFloat16* ring;        // packed key rows
  BFloat16* additional;  // [additional key][depth]
  Pair* query;           // [query row][depth / 2][lane]

  Dots(const Sizes<float>& s, int64_t dim, Arena<float>& arena)
      : sizes(dim, s.plan.max_columns), tail(tail_rows(s.p)), column_rows(rows_of_columns(s)) {
    ring = arena.take_as<BFloat16>(s.plan.ring_rows * sizes.row);
    additional = arena.take_as<BFloat16>(round_up(s.additional, kTileRows) * sizes.depth);
    query = arena.take_as<Pair>(sizes.block_planes());
    if (query) memset(query, 0, static_cast<size_t>(sizes.block_planes()) * sizeof(Pair));  // dims that there are not
  }

  // Whole tiles, and as far as a vector may move.
  static int64_t rows_of_columns(const Sizes<float>& s) {
    return round_up(kTileLanes + max_of(s.slots, s.additional), kTileRows);
  }
  // Room for the columns of two key rows: those of the next one are multiplied before the present one's are read.
  static int64_t columns(const Sizes<float>& s) { return 2 * kScoreRows * rows_of_columns(s) * kTileLanes; }

  NATTEN_MEMBER void pack_token(const BFloat16* token, BFloat16* to) const {
    for (int d = 0; d < sizes.depth; d += kTileDepth)
      _mm512_store_si512(to + d, (__m512i)load_pairs(token, d / 2, sizes.head_dim));
  }
  NATTEN_MEMBER void pack(const Sizes<float>& s, const RingRow& row, const Tensor& t) const {
    const BFloat16* memory = row.memory<BFloat16>(t);
    BFloat16* to = ring + row.slot * sizes.row;
    for (int64_t column = row.begin; column < row.end; ++column, to += sizes.depth)
      pack_token(memory + s.plan.coordinate[column] * t.axis[kX], to);
  }
  NATTEN_MEMBER void pack_additional(const Sizes<float>& s, const Item& item, const Tensor& t) const {
    for (int i = 0; i < s.additional; ++i)
      pack_token(static_cast<const BFloat16*>(t.data) + item.batch * t.batch + item.head * t.head + i * t.axis[kX],
                 additional + static_cast<int64_t>(i) * sizes.depth);
  }
  NATTEN_MEMBER void pack_queries(const Sizes<float>& s, const Map& map, const Work& w, const Tensor& t) const {
    for (int r = 0; r < w.group.rows; ++r) {
      const BFloat16* tokens[kTileLanes];
      lane_tokens<Pair>(s.plan, map.row<BFloat16>(t, w.group.z, w.group.y + r), t.axis[kX], w.column,
                        w.column + w.c.lanes - 1, tokens);
      pack_planes<Pair>(tokens, sizes.head_dim, 1, query + r * sizes.query_planes(), kTileLanes);
    }
  }

  // As window_scores, and behind them the scores of additional keys: unit * query . key + bias.
  void scores(Tiles& tiles, const Sizes<float>& s, const Work& w, float unit, const float* bias, const float* zeros,
              float missing, float* columns, float* out, Ahead& ahead) const {
    constexpr int n = kTileLanes;
    const int64_t half = kScoreRows * column_rows * n, bias_step = static_cast<int64_t>(s.slots) * n;
    if (sizes.depth == kTileDepth) load_query_tiles(tiles, query, sizes.query_planes(), w.group.rows);
    const auto multiply = [&](int i) {
      const KeyRow& key = w.group.keys[i];
      multiply_columns(tiles,
                       {ring + key.slot * sizes.row + w.key_column * sizes.depth, query, columns + i % 2 * half,
                        sizes.query_planes(), column_rows * n, sizes.depth, w.c.width, tail, key.first, key.end});
    };
    const auto move = [&](const Moves& moves, const SlotArgs& a, int slots) {
      switch (moves.bits) {
        case 0: return move_columns<0>(moves, a, slots);
        case 4: return move_columns<4>(moves, a, slots);
        default: return move_columns<3>(moves, a, slots);
      }
    };
    const Moves moves(w.c);
    multiply(0);
    for (int i = 0; i < w.group.key_rows; ++i) {
      if (i + 1 < w.group.key_rows) multiply(i + 1);
      const KeyRow& key = w.group.keys[i];
      for (int r = key.first; r < key.end; ++r)
        move(
            moves,
            {columns + i % 2 * half + r * column_rows * n, bias ? bias + key.bias - (r - key.first) * bias_step : zeros,
             out + (static_cast<int64_t>(r) * s.window + key.window[r] * w.c.slots) * n, unit},
            w.c.slots);
      ahead.portion();
    }
    if (!w.c.is_whole())
      for (int r = 0; r < w.group.rows; ++r)
        fill_lacking<float>(w.c, w.group.window_rows(r), missing, out + static_cast<int64_t>(r) * s.window * n);
    if (s.additional == 0) return;
    multiply_columns(tiles, {additional, query, columns, sizes.query_planes(), column_rows * n, sizes.depth,
                             s.additional, tail, 0, w.group.rows});
    const Moves none(s.plan.everyone[w.lane_class]);
    for (int r = 0; r < w.group.rows; ++r)
      move(none,
           {columns + r * column_rows * n, zeros, out + (static_cast<int64_t>(r) * s.window + w.window(r)) * n, unit},
           s.additional);
  }
};

}  // namespace natten_core::cpu::NATTEN_ISA
