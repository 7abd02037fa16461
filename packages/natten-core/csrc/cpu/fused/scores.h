// Scores: lanes are queries. For up to kScoreRows query rows that share a key row, and a few window slots at a time,
//   scores[r][slot][lane] = sum_d query[r][d][lane] * key[d][column of (lane, slot)] + bias[r][slot][lane]
// where d counts planes: dimensions, or pairs of them. The key planes are read once for all query rows. The same
// product serves dO . V in the backward pass.
#pragma once

#include "../plan.h"
#include "simd.h"

namespace natten_core::cpu::NATTEN_ISA {

constexpr int kScoreRows = kRegisters == 32 ? 4 : 3;

// A sum is of so many products at most, and the bias comes last: begun with it, every partial sum would be rounded at
// the size of the bias. What one sum has left is the bias of the next.
constexpr int kScorePlanes = 128;

// Accumulators, one row of queries and a key must fit the registers; a single row still wants enough independent sums.
// 4 rows of 7 leave room for a key and three of the queries: to read the fourth again for every slot is better than to
// read all four and each key row's planes twice.
constexpr int score_slots_at_once(int rows, Reach kind) {
  if (kRegisters == 32) return rows <= 2 ? 8 : 7;
  const bool border = kind != Reach::kRegular && kind != Reach::kUniform;  // needs registers of its own
  return rows == 1 ? 8 : rows == 2 ? (border ? 4 : 6) : (border ? 3 : 4);
}

template <class E>
struct ScoreArgs {
  const E* query;  // [rows][planes][lanes]
  const E* key;    // [planes][columns], at the block's first key column
  // Of each row, [slots][lanes]; both may be the same.
  const Sum<E>* bias[kScoreRows];
  Sum<E>* scores[kScoreRows];
  int64_t query_step, key_stride;
  int planes, slots;
  // How lanes reach their keys, see Reach.
  IntVec<E> offset;
  IntVec<E> uniform;  // a mask: the lanes that share one column
  int64_t shared;     // that column, from the slot's
  int64_t shift;      // columns from the slot's back to that of lane 0 of the other lanes
};

template <class E>
NATTEN_KERNEL void set_reach(ScoreArgs<E>& a, const LaneClass& c) {
  const bool low = c.reach == Reach::kLow;
  for (int lane = 0; lane < kLanes<E>; ++lane) {
    a.offset[lane] = c.offset[lane];
    a.uniform[lane] = (lane < c.split) == low ? -1 : 0;
  }
  a.shared = low ? 0 : c.split - 1;
  a.shift = low ? c.split - 1 : 0;
}

// The keys of all lanes at one slot; `key` is the block's first key column plus the slot.
template <class E, Reach Kind>
NATTEN_KERNEL Vec<E> reach(const ScoreArgs<E>& a, const E* key) {
  if constexpr (Kind == Reach::kRegular) return load<E>(key);
  if constexpr (Kind == Reach::kUniform) return broadcast<E>(*key);
  if constexpr (Kind == Reach::kPermute) return gather<E>(key, a.offset);
  return a.uniform ? broadcast<E>(key[a.shared]) : load<E>(key - a.shift);
}

template <class E, int Rows, int Slots, Reach Kind>
NATTEN_KERNEL void score_slots(const ScoreArgs<E>& a, int slot) {
  constexpr int n = kLanes<E>;
  Vec<Sum<E>> sum[Rows][Slots];
  NATTEN_UNROLL
  for (int r = 0; r < Rows; ++r) {
    NATTEN_UNROLL
    for (int j = 0; j < Slots; ++j) sum[r][j] = Vec<Sum<E>>{};
  }
  const E* key = a.key + slot;
  const E* query = a.query;
  for (int d = 0; d < a.planes; ++d, key += a.key_stride, query += n) {
    Vec<E> q[Rows];
    NATTEN_UNROLL
    for (int r = 0; r < Rows; ++r) q[r] = load<E>(query + r * a.query_step);
    NATTEN_UNROLL
    for (int j = 0; j < Slots; ++j) {
      Vec<E> k = reach<E, Kind>(a, key + j);
      if constexpr (Rows > 1) keep<E>(k);
      NATTEN_UNROLL
      for (int r = 0; r < Rows; ++r) add_product<E>(sum[r][j], q[r], k);
    }
  }
  NATTEN_UNROLL
  for (int r = 0; r < Rows; ++r) {
    NATTEN_UNROLL
    for (int j = 0; j < Slots; ++j) {
      const int64_t at = static_cast<int64_t>(slot + j) * n;
      store<Sum<E>>(a.scores[r] + at, sum[r][j] + load<Sum<E>>(a.bias[r] + at));
    }
  }
}

template <class E, int Rows, Reach Kind>
static void score_row(const ScoreArgs<E>& a) {
  constexpr int most = score_slots_at_once(Rows, Kind);
  const auto run = [&](auto slots, int slot) __attribute__((always_inline)) {
    if constexpr (decltype(slots)::value <= most) score_slots<E, Rows, decltype(slots)::value, Kind>(a, slot);
  };
  // Near-equal parts: 7 slots are 4 + 3, not 4 + 1 + 1 + 1.
  int parts = (a.slots + most - 1) / most;
  for (int slot = 0; parts > 0; --parts) {
    const int count = (a.slots - slot + parts - 1) / parts;
    switch (count) {
      case 1: run(Constant<1>{}, slot); break;
      case 2: run(Constant<2>{}, slot); break;
      case 3: run(Constant<3>{}, slot); break;
      case 4: run(Constant<4>{}, slot); break;
      case 5: run(Constant<5>{}, slot); break;
      case 6: run(Constant<6>{}, slot); break;
      case 7: run(Constant<7>{}, slot); break;
      case 8: run(Constant<8>{}, slot); break;
    }
    slot += count;
  }
}

template <class E, int Rows>
NATTEN_KERNEL void score_any(const ScoreArgs<E>& a, Reach kind) {
  switch (kind) {
    case Reach::kRegular: return score_row<E, Rows, Reach::kRegular>(a);
    case Reach::kUniform: return score_row<E, Rows, Reach::kUniform>(a);
    case Reach::kLow:
    case Reach::kHigh:
      // Either is a choice between the two above, except where a permutation costs no more than a load.
      if constexpr (kVectorBytes < 64) return score_row<E, Rows, Reach::kLow>(a);
      [[fallthrough]];
    case Reach::kPermute: return score_row<E, Rows, Reach::kPermute>(a);
  }
}

template <class E>
NATTEN_KERNEL void scores(const ScoreArgs<E>& a, int rows, Reach kind) {
  switch (rows) {
    case 1: return score_any<E, 1>(a, kind);
    case 2: return score_any<E, 2>(a, kind);
    case 3: return score_any<E, 3>(a, kind);
#if defined(__AVX512F__) || defined(__aarch64__)
    case 4: return score_any<E, 4>(a, kind);
#endif
  }
}

}  // namespace natten_core::cpu::NATTEN_ISA
