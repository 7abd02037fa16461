// Weighted sums: lanes are dimensions. For neighbouring queries of one row,
//   out[query][d] = factor[query] * sum over key rows t, slots j of weight[t][j][query] * value[t][column + j][d]
// Queries are taken a few at a time; where all their windows overlap, a value is read once for all of them. The same
// sum over keys gives the query gradient.
#pragma once

#include "pack.h"
#include "simd.h"

namespace natten_core::cpu::NATTEN_ISA {

// Accumulators and weights must fit the registers.
constexpr int sum_queries(int vectors) {
  if (kRegisters == 32) return vectors <= 2 ? 8 : 6;
  return vectors == 1 ? 6 : vectors == 2 ? 4 : 3;
}
constexpr int kSumVectors = 4;

template <class E>
struct SumArgs {
  const E* weight;          // [key rows * slots][lanes], at the first query's lane
  const E* const* value;    // key rows, each [column][padded head_dim], at the block's first key column
  const Sum<E>* factor;     // [lanes], at the first query's lane
  Sum<E>* const* out;       // [queries] tokens of head_dim elements
  const int32_t* offset;    // [queries] first key column of each window, from the block's first
  const int32_t* end;       // [queries] one past its last
  int key_rows, slots, head_dim, padded_dim;
  bool whole;  // no window is shorter than `slots`
  // What all queries see: keys [padded head_dim], and their weights behind those of the windows.
  const E* additional_value = nullptr;
  int additional = 0;
};

template <class E, int Queries, int Vectors>
NATTEN_KERNEL void sum_additional(const SumArgs<E>& a, int dim, Vec<Sum<E>> (&sum)[Queries][Vectors]) {
  const E *weight = a.weight + static_cast<int64_t>(a.key_rows) * a.slots * kLanes<E>, *row = a.additional_value + dim;
  for (int i = 0; i < a.additional; ++i, weight += kLanes<E>, row += a.padded_dim) {
    Vec<E> x[Vectors];
    NATTEN_UNROLL
    for (int v = 0; v < Vectors; ++v) x[v] = load<E>(row + v * kLanes<E>), keep<E>(x[v]);
    NATTEN_UNROLL
    for (int q = 0; q < Queries; ++q) {
      const Vec<E> w = broadcast<E>(weight[q]);
      NATTEN_UNROLL
      for (int v = 0; v < Vectors; ++v) add_product<E>(sum[q][v], w, x[v]);
    }
  }
}

template <class E, int Queries, int Vectors>
NATTEN_KERNEL void write_sums(const SumArgs<E>& a, int dim, const Vec<Sum<E>> (&sum)[Queries][Vectors]) {
  NATTEN_UNROLL
  for (int q = 0; q < Queries; ++q) {
    const Vec<Sum<E>> factor = broadcast<Sum<E>>(a.factor[q]);
    NATTEN_UNROLL
    for (int v = 0; v < Vectors; ++v) store_dims<Sum<E>>(a.out[q], dim + v * kLanes<E>, a.head_dim, sum[q][v] * factor);
  }
}

template <class E, int Queries, int Vectors, bool Regular>
NATTEN_KERNEL void sum_dims(const SumArgs<E>& a, int dim) {
  constexpr int n = kLanes<E>;
  Vec<Sum<E>> sum[Queries][Vectors];
  NATTEN_UNROLL
  for (int q = 0; q < Queries; ++q) {
    NATTEN_UNROLL
    for (int v = 0; v < Vectors; ++v) sum[q][v] = Vec<Sum<E>>{};
  }
  int offset[Queries];
  NATTEN_UNROLL
  for (int q = 0; q < Queries; ++q) offset[q] = Regular ? a.offset[0] + q : a.offset[q];

  for (int t = 0; t < a.key_rows; ++t) {
    const E* value = a.value[t] + dim;
    const E* weight = a.weight + static_cast<int64_t>(t) * a.slots * n;
    // One query, one column; and all queries of [First, Last), one column.
    const auto add_one = [&](int q, int column) __attribute__((always_inline)) {
      const Vec<E> w = broadcast<E>(weight[(column - offset[q]) * n + q]);
      const E* row = value + static_cast<int64_t>(column) * a.padded_dim;
      NATTEN_UNROLL
      for (int v = 0; v < Vectors; ++v) add_product<E>(sum[q][v], w, load<E>(row + v * n));
    };
    const int begin = offset[Queries - 1], end = Regular ? offset[0] + a.slots : a.end[0];
    if (begin >= end) {
      NATTEN_UNROLL
      for (int q = 0; q < Queries; ++q)
        for (int column = offset[q]; column < a.end[q]; ++column) add_one(q, column);
      continue;
    }
    if constexpr (Regular) {
      NATTEN_UNROLL
      for (int q = 0; q < Queries - 1; ++q) {
        NATTEN_UNROLL
        for (int i = 0; i <= q; ++i) add_one(i, offset[0] + q);
      }
    } else if (offset[0] < begin) {
      NATTEN_UNROLL
      for (int q = 0; q < Queries - 1; ++q)
        for (int column = offset[q]; column < begin; ++column) add_one(q, column);
    }
    for (int column = begin; column < end; ++column) {
      const E* row = value + static_cast<int64_t>(column) * a.padded_dim;
      Vec<E> w[Queries];
      NATTEN_UNROLL
      for (int q = 0; q < Queries; ++q) w[q] = broadcast<E>(weight[(column - offset[q]) * n + q]);
      NATTEN_UNROLL
      for (int v = 0; v < Vectors; ++v) {
        const Vec<E> x = load<E>(row + v * n);
        NATTEN_UNROLL
        for (int q = 0; q < Queries; ++q) add_product<E>(sum[q][v], w[q], x);
      }
    }
    if constexpr (Regular) {
      NATTEN_UNROLL
      for (int q = 1; q < Queries; ++q) {
        NATTEN_UNROLL
        for (int i = q; i < Queries; ++i) add_one(i, end + q - 1);
      }
    } else if (end < a.end[Queries - 1]) {
      NATTEN_UNROLL
      for (int q = 1; q < Queries; ++q)
        for (int column = end; column < a.end[q]; ++column) add_one(q, column);
    }
  }
  sum_additional<E, Queries, Vectors>(a, dim, sum);
  write_sums<E, Queries, Vectors>(a, dim, sum);
}

// How the windows of neighbouring queries lie: one column apart, but for those that a border holds back, or at the
// beginning of a causal axis shortens.
enum class Lie { kRegular, kLow, kHigh, kCausal };

// First key column of query q's window, from that of query 0.
template <int Queries, int Slots>
constexpr int lie_offset(Lie lie, int q) {
  constexpr int half = Slots / 2;
  if (lie == Lie::kLow) return q < half ? 0 : q - half;
  if (lie == Lie::kHigh) return q < Queries - 1 - half ? q : Queries - 1 - half;
  if (lie == Lie::kCausal) return q < Slots ? 0 : q - Slots + 1;
  return q;
}

// Key columns that it has.
template <int Slots>
constexpr int lie_slots(Lie lie, int q) {
  return lie == Lie::kCausal && q < Slots ? q + 1 : Slots;
}

// Small windows with everything known at compile time: each value is read once for all queries that see it.
template <class E, int Queries, int Vectors, int Slots, Lie Where>
static void sum_small(const SumArgs<E>& a, int dim) {
  constexpr int n = kLanes<E>;
  constexpr int columns = lie_offset<Queries, Slots>(Where, Queries - 1) + Slots;
  Vec<Sum<E>> sum[Queries][Vectors];
  NATTEN_UNROLL
  for (int q = 0; q < Queries; ++q) {
    NATTEN_UNROLL
    for (int v = 0; v < Vectors; ++v) sum[q][v] = Vec<Sum<E>>{};
  }
  for (int t = 0; t < a.key_rows; ++t) {
    const E* value = a.value[t] + dim + static_cast<int64_t>(a.offset[0]) * a.padded_dim;
    const E* weight = a.weight + static_cast<int64_t>(t) * Slots * n;
    NATTEN_UNROLL
    for (int column = 0; column < columns; ++column, value += a.padded_dim) {
      Vec<E> x[Vectors];
      NATTEN_UNROLL
      for (int v = 0; v < Vectors; ++v) x[v] = load<E>(value + v * n), keep<E>(x[v]);
      NATTEN_UNROLL
      for (int q = 0; q < Queries; ++q) {
        const int slot = column - lie_offset<Queries, Slots>(Where, q);
        if (slot < 0 || slot >= lie_slots<Slots>(Where, q)) continue;
        const Vec<E> w = broadcast<E>(weight[slot * n + q]);
        NATTEN_UNROLL
        for (int v = 0; v < Vectors; ++v) add_product<E>(sum[q][v], w, x[v]);
      }
    }
  }
  sum_additional<E, Queries, Vectors>(a, dim, sum);
  write_sums<E, Queries, Vectors>(a, dim, sum);
}

template <class E, int Queries, int Vectors, int Slots, Lie Where>
NATTEN_KERNEL bool try_lie(const SumArgs<E>& a, int dim) {
  bool all = true;
  for (int q = 1; q < Queries; ++q) all &= a.offset[q] == a.offset[0] + lie_offset<Queries, Slots>(Where, q);
  for (int q = 0; !a.whole && q < Queries; ++q) all &= a.end[q] == a.offset[q] + lie_slots<Slots>(Where, q);
  if (all) sum_small<E, Queries, Vectors, Slots, Where>(a, dim);
  return all;
}

template <class E, int Queries, int Vectors, int Slots>
NATTEN_KERNEL bool try_small(const SumArgs<E>& a, int dim) {
  if (a.slots != Slots) return false;
  return try_lie<E, Queries, Vectors, Slots, Lie::kRegular>(a, dim) ||
         try_lie<E, Queries, Vectors, Slots, Lie::kLow>(a, dim) ||
         try_lie<E, Queries, Vectors, Slots, Lie::kHigh>(a, dim) ||
         (!a.whole && try_lie<E, Queries, Vectors, Slots, Lie::kCausal>(a, dim));
}

template <class E, int Queries, int Vectors>
static void sum_group(const SumArgs<E>& a, int dim) {
  if constexpr (Queries == sum_queries(Vectors) && Queries > 4) {
    if (try_small<E, Queries, Vectors, 3>(a, dim) || try_small<E, Queries, Vectors, 5>(a, dim) ||
        try_small<E, Queries, Vectors, 7>(a, dim))
      return;
  }
  bool regular = a.slots >= Queries;  // windows one column apart: the ramps can be unrolled
  for (int q = 1; q < Queries; ++q) regular &= a.offset[q] == a.offset[0] + q;
  for (int q = 0; !a.whole && q < Queries; ++q) regular &= a.end[q] == a.offset[q] + a.slots;
  if (regular)
    sum_dims<E, Queries, Vectors, true>(a, dim);
  else
    sum_dims<E, Queries, Vectors, false>(a, dim);
}

template <class E, int Vectors>
NATTEN_KERNEL void sum_lanes(SumArgs<E> a, int lanes, int dim) {
  constexpr int most = sum_queries(Vectors);
  int parts = (lanes + most - 1) / most;
  for (int done = 0; parts > 0; --parts) {
    const int count = (lanes - done + parts - 1) / parts;
    const auto run = [&](auto queries) __attribute__((always_inline)) {
      if constexpr (decltype(queries)::value <= most) sum_group<E, decltype(queries)::value, Vectors>(a, dim);
    };
    switch (count) {
      case 1: run(Constant<1>{}); break;
      case 2: run(Constant<2>{}); break;
      case 3: run(Constant<3>{}); break;
      case 4: run(Constant<4>{}); break;
      case 5: run(Constant<5>{}); break;
      case 6: run(Constant<6>{}); break;
      case 7: run(Constant<7>{}); break;
      case 8: run(Constant<8>{}); break;
    }
    done += count;
    a.weight += count, a.factor += count, a.out += count, a.offset += count, a.end += count;
  }
}

template <class E>
static void weighted_sums(const SumArgs<E>& a, int lanes) {
  constexpr int n = kLanes<E>;
  for (int dim = 0; dim < a.padded_dim;) {
    const int left = (a.padded_dim - dim) / n;
    const int vectors = left < kSumVectors ? left : kSumVectors;
    switch (vectors) {
      case 1: sum_lanes<E, 1>(a, lanes, dim); break;
      case 2: sum_lanes<E, 2>(a, lanes, dim); break;
      case 3: sum_lanes<E, 3>(a, lanes, dim); break;
      case 4: sum_lanes<E, 4>(a, lanes, dim); break;
    }
    dim += vectors * n;
  }
}

}  // namespace natten_core::cpu::NATTEN_ISA
