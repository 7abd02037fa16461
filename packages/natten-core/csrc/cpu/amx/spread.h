// Gradients of keys and values on tiles. For the query rows of a block, two by two, and one key row at a time,
//   [16 key columns][16 queries, in pairs of rows] . [16 queries, in pairs of rows][16 dims] = [16 key columns][16
//   dims]
// is added to the ring. The weights [slot][lane] of both rows are narrowed together and moved down to the lanes'
// columns by 1, 2, 4 and 8, the way of the scores backwards. As in weighted sums, tokens have zeros for what is not
// finite.
#pragma once

#include "../fused/context.h"
#include "finite.h"
#include "moves.h"
#include "sizes.h"

namespace natten_core::cpu::NATTEN_ISA {

constexpr int kRowPairs = kScoreRows / 2;

struct SpreadSource {
  const float *low, *high;  // [slot][lane] of two query rows
  IntVec<float> count;      // slots of each lane, none of lanes that repeat the last query
};

// to[column][lane] = the pairs of up to eight slots, beside what is there already of the slots before them.
template <int Slots, int Bits, bool Whole>
NATTEN_KERNEL void move_pairs(const Moves& moves, const SpreadSource& from, int slot, Pair* to) {
  constexpr int n = kTileLanes, reach = kReach<Bits>;
  __m512i v[Slots + (reach + 1) / 2];
  NATTEN_UNROLL
  for (int i = 0; i < Slots; ++i) {
    const int at = (slot + i) * n;
    const Vec<Pair> pair = narrow_pair(load<float>(from.low + at), load<float>(from.high + at));
    v[i] = (__m512i)(Whole ? pair : slot + i < from.count ? pair : Vec<Pair>{});
  }
  const Moves by = moves;  // held in registers, whatever is stored
  const auto moved = [&](int bit, int count, int i) __attribute__((always_inline)) {
    const int step = 1 << bit;
    const __m512i above = i >= step ? v[i - step] : __m512i{}, here = i < count ? v[i] : __m512i{};
    return _mm512_mask_mov_epi32(here, by.lanes[bit], above);
  };
  const auto move = [&](int bit, int count) __attribute__((always_inline)) {
    NATTEN_UNROLL
    for (int i = count + (1 << bit) - 1; i >= 0; --i) v[i] = moved(bit, count, i);
  };
  if constexpr (Bits > 0) move(0, Slots), move(1, Slots + 1);
  if constexpr (Bits == 4) move(2, Slots + 3);
  const auto finish = [&](auto again) __attribute__((always_inline)) {
    _Pragma("GCC unroll 32") for (int i = 0; i < Slots + reach; ++i) {
      __m512i pair;
      if constexpr (Bits > 0)
        pair = moved(Bits - 1, Slots + reach / 2, i);
      else
        pair = v[i];
      if (decltype(again)::value && i < reach) pair |= _mm512_load_si512(to + (slot + i) * n);
      _mm512_store_si512(to + (slot + i) * n, pair);
    }
  };
  slot == 0 ? finish(Constant<0>{}) : finish(Constant<1>{});
}

// Fills as many rows as there are slots, and kReach more.
template <int Bits, bool Whole>
static void move_all_pairs(const Moves& moves, const SpreadSource& from, int slots, Pair* to) {
  int slot = 0;
  for (; slot + 8 <= slots; slot += 8) move_pairs<8, Bits, Whole>(moves, from, slot, to);
  switch (slots - slot) {
    case 1: return move_pairs<1, Bits, Whole>(moves, from, slot, to);
    case 2: return move_pairs<2, Bits, Whole>(moves, from, slot, to);
    case 3: return move_pairs<3, Bits, Whole>(moves, from, slot, to);
    case 4: return move_pairs<4, Bits, Whole>(moves, from, slot, to);
    case 5: return move_pairs<5, Bits, Whole>(moves, from, slot, to);
    case 6: return move_pairs<6, Bits, Whole>(moves, from, slot, to);
    case 7: return move_pairs<7, Bits, Whole>(moves, from, slot, to);
  }
}

struct Spreads {
  TokenTiles sizes;
  int tail;
  int64_t pair_step;  // elements of the weights of a pair of query rows at one key row
  Pair* tokens;       // [pair of query rows][lane][padded_dim]
  Pair* weights;      // [even and odd key rows][pair of query rows][column][lane]

  Spreads(const Sizes<float>& s, int64_t dim, Arena<float>& arena)
      : sizes(dim, s.plan.max_columns),
        tail(tail_rows(s.p)),
        pair_step(round_up(kTileLanes + max_of(s.slots, s.additional), kTileRows) * kTileLanes) {
    tokens = arena.take_as<Pair>(kRowPairs * tokens_step());
    weights = arena.take_as<Pair>(2 * kRowPairs * pair_step);
    if (tokens) memset(tokens, 0, static_cast<size_t>(kRowPairs * tokens_step()) * sizeof(Pair));
  }

  int64_t tokens_step() const { return static_cast<int64_t>(kTileLanes) * sizes.padded_dim; }
  // Of a ring of gradients, behind its last row: as far as a tile reaches.
  static int64_t margin(const TokenSizes<float>& sizes) { return static_cast<int64_t>(kTileRows) * sizes.padded_dim; }

  // Bit 16 * (r / 2) + lane of the result is set where a token of the pair is not finite.
  uint32_t pack(const Sizes<float>& s, const Map& map, const Work& w, const Tensor& t) const {
    uint32_t unfit = 0;
    for (int r = 0; r < w.group.rows; r += 2) {
      const BFloat16* low = map.row<BFloat16>(t, w.group.z, w.group.y + r);
      const BFloat16* high = r + 1 < w.group.rows ? map.row<BFloat16>(t, w.group.z, w.group.y + r + 1) : nullptr;
      Pair* to = tokens + r / 2 * tokens_step();
      for (int lane = 0; lane < w.c.lanes; ++lane, to += sizes.padded_dim) {
        const int64_t at = s.plan.coordinate[w.column + lane] * t.axis[kX];
        const bool any = pack_finite_pairs(low + at, high ? high + at : nullptr, sizes.head_dim, to);
        unfit |= static_cast<uint32_t>(any) << (r / 2 * kTileLanes + lane);
      }
    }
    return unfit;
  }

  NATTEN_MEMBER void take(const LaneClass& c, const Moves& moves, const float* low, const float* high, Pair* to) const {
    SpreadSource from{low, high, {}};
    for (int lane = 0; lane < c.lanes; ++lane) from.count[lane] = c.end[lane] - c.offset[lane];
    const bool whole = c.is_whole() && c.lanes == kTileLanes;
    int filled = c.slots;
    const auto move = [&](auto bits) {
      constexpr int b = decltype(bits)::value;
      whole ? move_all_pairs<b, true>(moves, from, c.slots, to) : move_all_pairs<b, false>(moves, from, c.slots, to);
      filled += kReach<b>;
    };
    switch (moves.bits) {
      case 0: move(Constant<0>{}); break;
      case 4: move(Constant<4>{}); break;
      default: move(Constant<3>{});
    }
    for (int64_t end = round_up(c.width, kTileRows); filled < end; ++filled)
      _mm512_store_si512(to + filled * kTileLanes, __m512i{});
  }

  // The tokens of a pair of query rows, for two tiles of dims from `dim` on, are tiles 0 and 1, those of the other pair
  // 2 and 3.
  NATTEN_MEMBER void load_tokens(Tiles& tiles, int dim) const {
    const int64_t stride = static_cast<int64_t>(sizes.padded_dim) * 4;
    const bool two = sizes.padded_dim - dim > kTileLanes;
    const Pair* at = tokens + dim;
    tiles.load<0>(at, stride);
    if (two) tiles.load<1>(at + kTileLanes, stride);
    tiles.load<2>(at + tokens_step(), stride);
    if (two) tiles.load<3>(at + tokens_step() + kTileLanes, stride);
  }

  template <int Gradient, int Weights, int Dim>
  NATTEN_MEMBER void multiply_tile(Tiles& tiles, const Pair* pairs, bool first, bool second, float* grad) const {
    const int64_t stride = static_cast<int64_t>(sizes.padded_dim) * 4;
    tiles.load<Gradient>(grad, stride);
    if (first) tiles.load<Weights>(pairs, kRowBytes), tiles.multiply<Gradient, Weights, Dim>();
    if (second) tiles.load<Weights>(pairs + pair_step, kRowBytes), tiles.multiply<Gradient, Weights, 2 + Dim>();
    tiles.store<Gradient>(grad, stride);
  }

  // grad[column][padded_dim] += weights^T . tokens of those of both pairs of query rows that there are.
  NATTEN_MEMBER void multiply(Tiles& tiles, int width, const Pair* pairs, bool first, bool second, float* grad) const {
    for (int dim = 0; dim < sizes.padded_dim; dim += 2 * kTileLanes) {
      if (sizes.padded_dim > 2 * kTileLanes) load_tokens(tiles, dim);
      const bool two = sizes.padded_dim - dim > kTileLanes;
      for (int column = 0; column < width; column += kTileRows) {
        float* const to = grad + static_cast<int64_t>(column) * sizes.padded_dim + dim;
        const Pair* from = pairs + column * kTileLanes;
        if (width - column <= tail) {
          multiply_tile<5, 7, 0>(tiles, from, first, second, to);
          if (two) multiply_tile<5, 7, 1>(tiles, from, first, second, to + kTileLanes);
        } else {
          multiply_tile<4, 6, 0>(tiles, from, first, second, to);
          if (two) multiply_tile<4, 6, 1>(tiles, from, first, second, to + kTileLanes);
        }
      }
    }
  }

  // As spread_rows, and for `gathered`, the gradients of additional keys, as Additional's spread.
  void spread(Tiles& tiles, const Sizes<float>& s, const Work& w, const float* from, const float* zeros,
              int64_t grad_step, float* grads, float* gathered) const {
    const RowGroup& group = w.group;
    const int64_t row_step = static_cast<int64_t>(s.window) * kTileLanes, half = kRowPairs * pair_step;
    const Moves moves(w.c);
    if (sizes.padded_dim <= 2 * kTileLanes) load_tokens(tiles, 0);
    const auto sees = [&](int i, int pair) {
      return group.keys[i].first < 2 * pair + 2 && group.keys[i].end > 2 * pair;
    };
    const auto take_row = [&](int i) {
      const KeyRow& key = group.keys[i];
      const auto row = [&](int r) {
        return r < key.first || r >= key.end ? zeros : from + r * row_step + key.window[r] * w.c.slots * kTileLanes;
      };
      for (int pair = 0; pair < kRowPairs; ++pair)
        if (sees(i, pair))
          take(w.c, moves, row(2 * pair), row(2 * pair + 1), weights + i % 2 * half + pair * pair_step);
    };
    // Weights are stored a key row before they are loaded: a tile waits for stores to reach the cache.
    take_row(0);
    for (int i = 0; i < group.key_rows; ++i) {
      if (i + 1 < group.key_rows) take_row(i + 1);
      multiply(tiles, w.c.width, weights + i % 2 * half, sees(i, 0), sees(i, 1),
               grads + group.keys[i].slot * grad_step + w.key_column * sizes.padded_dim);
    }
    if (s.additional == 0) return;
    const LaneClass& everyone = s.plan.everyone[w.lane_class];
    const auto row = [&](int r) { return r < group.rows ? from + r * row_step + w.window(r) * kTileLanes : zeros; };
    for (int pair = 0; 2 * pair < group.rows; ++pair)
      take(everyone, Moves(everyone), row(2 * pair), row(2 * pair + 1), weights + pair * pair_step);
    multiply(tiles, s.additional, weights, true, group.rows > 2, gathered);
  }

  // Adds what was not finite of the tokens `t` of the lanes that `unfit` tells, see pack, to the keys that they see.
  __attribute__((noinline)) void add_unfit(uint32_t unfit, const Sizes<float>& s, const Map& map, const Work& w,
                                           const Tensor& t, const float* from, int64_t grad_step, float* grads,
                                           float* gathered) const {
    for (int r = 0; r < w.group.rows; ++r)
      for (int lane = 0; lane < w.c.lanes; ++lane) {
        if (!(unfit >> (r / 2 * kTileLanes + lane) & 1)) continue;
        const BFloat16* token =
            map.row<BFloat16>(t, w.group.z, w.group.y + r) + s.plan.coordinate[w.column + lane] * t.axis[kX];
        const float* slots = from + static_cast<int64_t>(r) * s.window * kTileLanes + lane;
        const int offset = w.c.offset[lane], count = w.c.end[lane] - offset;
        for (int i = 0; i < w.group.key_rows; ++i) {
          const KeyRow& key = w.group.keys[i];
          if (r < key.first || r >= key.end) continue;
          float* grad = grads + key.slot * grad_step + (w.key_column + offset) * sizes.padded_dim;
          for (int j = 0; j < count; ++j)
            add_not_finite(token, sizes.head_dim, slots[(key.window[r] * w.c.slots + j) * kTileLanes],
                           grad + static_cast<int64_t>(j) * sizes.padded_dim);
        }
        for (int j = 0; j < s.additional; ++j)
          add_not_finite(token, sizes.head_dim, slots[(w.window(r) + j) * kTileLanes],
                         gathered + static_cast<int64_t>(j) * sizes.padded_dim);
      }
  }
};

}  // namespace natten_core::cpu::NATTEN_ISA
