// Scores: lanes are queries. For up to kScoreRows query rows that share a key row, and a few window slots at a time,
//   scores[r][slot][lane] = sum_d query[r][d][lane] * key[d][column of (lane, slot)] + bias[r][slot][lane]
// The key planes are read once for all query rows. The same product serves dO . V in the backward pass.
#pragma once

#include "../plan.h"
#include "simd.h"

namespace natten_core::cpu::NATTEN_ISA {

constexpr int kScoreRows = kRegisters == 32 ? 4 : 3;

// A sum is of so many products at most, and the bias comes last: begun with it, every partial sum would be rounded at
// the size of the bias. What one sum has left is the bias of the next.
constexpr int kScoreDims = 128;

// Accumulators, one row of queries and a key must fit the registers; a single row still wants enough independent sums.
constexpr int score_slots_at_once(int rows, Reach kind) {
  if (kRegisters == 32) return rows == 1 ? 8 : rows == 2 ? 8 : rows == 3 ? 7 : 6;
  const bool border = kind != Reach::kRegular && kind != Reach::kUniform;  // needs registers of its own
  return rows == 1 ? 8 : rows == 2 ? (border ? 4 : 6) : (border ? 3 : 4);
}

template <class T>
struct ScoreArgs {
  const T* query;  // [rows][head_dim][lanes]
  const T* key;    // [head_dim][columns], at the block's first key column
  // Of each row, [slots][lanes]; both may be the same.
  const T* bias[kScoreRows];
  T* scores[kScoreRows];
  int64_t query_step, key_stride;
  int head_dim, slots;
  // How lanes reach their keys, see Reach.
  IntVec<T> offset;
  IntVec<T> uniform;  // a mask: the lanes that share one column
  int64_t shared;     // that column, from the slot's
  int64_t shift;      // columns from the slot's back to that of lane 0 of the other lanes
};

template <class T>
NATTEN_KERNEL void set_reach(ScoreArgs<T>& a, const LaneClass& c) {
  const bool low = c.reach == Reach::kLow;
  for (int lane = 0; lane < kLanes<T>; ++lane) {
    a.offset[lane] = c.offset[lane];
    a.uniform[lane] = (lane < c.split) == low ? -1 : 0;
  }
  a.shared = low ? 0 : c.split - 1;
  a.shift = low ? c.split - 1 : 0;
}

// The keys of all lanes at one slot; `key` is the block's first key column plus the slot.
template <class T, Reach Kind>
NATTEN_KERNEL Vec<T> reach(const ScoreArgs<T>& a, const T* key) {
  if constexpr (Kind == Reach::kRegular) return load<T>(key);
  if constexpr (Kind == Reach::kUniform) return broadcast<T>(*key);
  if constexpr (Kind == Reach::kPermute) return permute<T>(load<T>(key), a.offset);
  return a.uniform ? broadcast<T>(key[a.shared]) : load<T>(key - a.shift);
}

template <class T, int Rows, int Slots, Reach Kind>
NATTEN_KERNEL void score_slots(const ScoreArgs<T>& a, int slot) {
  constexpr int n = kLanes<T>;
  Vec<T> sum[Rows][Slots];
  NATTEN_UNROLL
  for (int r = 0; r < Rows; ++r) {
    NATTEN_UNROLL
    for (int j = 0; j < Slots; ++j) sum[r][j] = Vec<T>{};
  }
  const T* key = a.key + slot;
  const T* query = a.query;
  for (int d = 0; d < a.head_dim; ++d, key += a.key_stride, query += n) {
    Vec<T> q[Rows];
    NATTEN_UNROLL
    for (int r = 0; r < Rows; ++r) q[r] = load<T>(query + r * a.query_step);
    NATTEN_UNROLL
    for (int j = 0; j < Slots; ++j) {
      Vec<T> k = reach<T, Kind>(a, key + j);
      if constexpr (Rows > 1) keep<T>(k);
      NATTEN_UNROLL
      for (int r = 0; r < Rows; ++r) sum[r][j] += q[r] * k;
    }
  }
  NATTEN_UNROLL
  for (int r = 0; r < Rows; ++r) {
    NATTEN_UNROLL
    for (int j = 0; j < Slots; ++j) {
      const int64_t at = static_cast<int64_t>(slot + j) * n;
      store<T>(a.scores[r] + at, sum[r][j] + load<T>(a.bias[r] + at));
    }
  }
}

template <class T, int Rows, Reach Kind>
static void score_row(const ScoreArgs<T>& a) {
  constexpr int most = score_slots_at_once(Rows, Kind);
  const auto run = [&](auto slots, int slot) __attribute__((always_inline)) {
    if constexpr (decltype(slots)::value <= most) score_slots<T, Rows, decltype(slots)::value, Kind>(a, slot);
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

template <class T, int Rows>
NATTEN_KERNEL void score_any(const ScoreArgs<T>& a, Reach kind) {
  switch (kind) {
    case Reach::kRegular: return score_row<T, Rows, Reach::kRegular>(a);
    case Reach::kUniform: return score_row<T, Rows, Reach::kUniform>(a);
    case Reach::kLow:
    case Reach::kHigh:
      // Either is a choice between the two above, except where a permutation costs no more than a load.
      if constexpr (kVectorBytes < 64) return score_row<T, Rows, Reach::kLow>(a);
      [[fallthrough]];
    case Reach::kPermute: return score_row<T, Rows, Reach::kPermute>(a);
  }
}

template <class T>
NATTEN_KERNEL void scores(const ScoreArgs<T>& a, int rows, Reach kind) {
  switch (rows) {
    case 1: return score_any<T, 1>(a, kind);
    case 2: return score_any<T, 2>(a, kind);
    case 3: return score_any<T, 3>(a, kind);
#if defined(__AVX512F__) || defined(__aarch64__)
    case 4: return score_any<T, 4>(a, kind);
#endif
  }
}

}  // namespace natten_core::cpu::NATTEN_ISA
