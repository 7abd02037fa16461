// The transpose of a weighted sum: lanes are dimensions. For one key row and every column u that a block sees,
//   grad[u][d] += sum over query rows r, lanes q whose window holds u of weight[r][u - offset[q]][q] * token[r][q][d]
// which is dV (weights P, tokens dO) and dK (weights dS, tokens scale * Q). A few columns at a time share the tokens.
#pragma once

#include "../plan.h"
#include "pack.h"
#include "scores.h"

namespace natten_core::cpu::NATTEN_ISA {

constexpr int kSpreadColumns = kRegisters == 32 ? 4 : 3;
constexpr int kSpreadVectors = 4;

template <class E>
struct SpreadArgs {
  const E* weight[kScoreRows];  // [slots][lanes] of this key row, for each query row
  const E* token[kScoreRows];   // [lanes][padded head_dim] of each query row
  Sum<E>* grad;                 // [column][padded head_dim] of this key row, at the block's first key column
  const LaneClass* lane_class;
  int rows, slots, padded_dim;
};

template <class E, int Columns, int Vectors>
static void spread_columns(const SpreadArgs<E>& a, int u, int dim) {
  constexpr int n = kLanes<E>;
  const int32_t* first = a.lane_class->first_lane.data() + u;
  const int32_t* last = a.lane_class->last_lane.data() + u;
  const int32_t* offset = a.lane_class->offset;
  Sum<E>* grad = a.grad + static_cast<int64_t>(u) * a.padded_dim + dim;
  Vec<Sum<E>> sum[Columns][Vectors];
  NATTEN_UNROLL
  for (int i = 0; i < Columns; ++i) {
    NATTEN_UNROLL
    for (int v = 0; v < Vectors; ++v) sum[i][v] = load<Sum<E>>(grad + i * a.padded_dim + v * n);
  }
  for (int r = 0; r < a.rows; ++r) {
    const E* weight = a.weight[r];
    const E* token = a.token[r] + dim;
    const auto add_one = [&](int i, int q) __attribute__((always_inline)) {
      const Vec<E> w = broadcast<E>(weight[(u + i - offset[q]) * n + q]);
      NATTEN_UNROLL
      for (int v = 0; v < Vectors; ++v) add_product<E>(sum[i][v], w, load<E>(token + q * a.padded_dim + v * n));
    };
    const int begin = first[Columns - 1], end = last[0] + 1;  // lanes that see all these columns
    if (begin >= end) {
      NATTEN_UNROLL
      for (int i = 0; i < Columns; ++i)
        for (int q = first[i]; q <= last[i]; ++q) add_one(i, q);
      continue;
    }
    NATTEN_UNROLL
    for (int i = 0; i < Columns - 1; ++i)
      for (int q = first[i]; q < begin; ++q) add_one(i, q);
    for (int q = begin; q < end; ++q) {
      Vec<E> w[Columns];
      NATTEN_UNROLL
      for (int i = 0; i < Columns; ++i) w[i] = broadcast<E>(weight[(u + i - offset[q]) * n + q]);
      NATTEN_UNROLL
      for (int v = 0; v < Vectors; ++v) {
        const Vec<E> x = load<E>(token + q * a.padded_dim + v * n);
        NATTEN_UNROLL
        for (int i = 0; i < Columns; ++i) add_product<E>(sum[i][v], w[i], x);
      }
    }
    NATTEN_UNROLL
    for (int i = 1; i < Columns; ++i)
      for (int q = end; q <= last[i]; ++q) add_one(i, q);
  }
  NATTEN_UNROLL
  for (int i = 0; i < Columns; ++i) {
    NATTEN_UNROLL
    for (int v = 0; v < Vectors; ++v) store<Sum<E>>(grad + i * a.padded_dim + v * n, sum[i][v]);
  }
}

// Small windows one column apart, with everything but the block's ends known at compile time: each token is read once
// for all the columns, up to kSmallColumns, that it spreads to. `lane0`: the lane whose window begins at column u.
constexpr int kSmallColumns = 12;
constexpr int kSmallVectors = kRegisters == 32 ? 2 : 0;

template <class E, int Slots, int Vectors>
static void spread_small(const SpreadArgs<E>& a, int u, int columns, int lane0, int dim) {
  constexpr int n = kLanes<E>;
  Sum<E>* grad = a.grad + static_cast<int64_t>(u) * a.padded_dim + dim;
  Vec<Sum<E>> sum[kSmallColumns][Vectors];
  NATTEN_UNROLL
  for (int i = 0; i < kSmallColumns; ++i) {
    NATTEN_UNROLL
    for (int v = 0; v < Vectors; ++v)
      sum[i][v] = i < columns ? load<Sum<E>>(grad + i * a.padded_dim + v * n) : Vec<Sum<E>>{};
  }
  const int lanes = a.lane_class->lanes;
  for (int r = 0; r < a.rows; ++r) {
    const E* weight = a.weight[r] + lane0;
    const E* token = a.token[r] + static_cast<int64_t>(lane0) * a.padded_dim + dim;
    NATTEN_UNROLL
    for (int j = 1 - Slots; j < kSmallColumns; ++j) {  // the lane, from lane0
      if (lane0 + j < 0 || lane0 + j >= lanes) continue;
      Vec<E> x[Vectors];
      NATTEN_UNROLL
      for (int v = 0; v < Vectors; ++v) x[v] = load<E>(token + j * a.padded_dim + v * n), keep<E>(x[v]);
      NATTEN_UNROLL
      for (int i = 0; i < kSmallColumns; ++i) {
        if (i < j || i >= j + Slots) continue;
        const Vec<E> w = broadcast<E>(weight[(i - j) * n + j]);
        NATTEN_UNROLL
        for (int v = 0; v < Vectors; ++v) add_product<E>(sum[i][v], w, x[v]);
      }
    }
  }
  NATTEN_UNROLL
  for (int i = 0; i < kSmallColumns; ++i) {
    NATTEN_UNROLL
    for (int v = 0; v < Vectors; ++v)
      if (i < columns) store<Sum<E>>(grad + i * a.padded_dim + v * n, sum[i][v]);
  }
}

// As many columns from u on as spread_small takes; 0 where it does not apply.
template <class E, int Vectors>
NATTEN_KERNEL int spread_small_columns(const SpreadArgs<E>& a, int u, int dim) {
  const LaneClass& c = *a.lane_class;
  const int columns = c.width - u < kSmallColumns ? c.width - u : kSmallColumns;
  const int first = c.first_lane[u], last = c.last_lane[u + columns - 1];
  if (c.run_end[first] < last) return 0;
  const int lane0 = first + u - c.offset[first];
  // The lanes beside them, as if the run went on, must not reach these columns: in strided windows they could.
  if ((first > 0 && first - 1 > lane0 - a.slots) || (last + 1 < c.lanes && last + 1 < lane0 + columns)) return 0;
  switch (a.slots) {
    case 3: spread_small<E, 3, Vectors>(a, u, columns, lane0, dim); return columns;
    case 5: spread_small<E, 5, Vectors>(a, u, columns, lane0, dim); return columns;
    case 7: spread_small<E, 7, Vectors>(a, u, columns, lane0, dim); return columns;
  }
  return 0;
}

template <class E, int Vectors>
NATTEN_KERNEL void spread_dims(const SpreadArgs<E>& a, int dim) {
  const int width = a.lane_class->width;
  for (int u = 0; u < width;) {
    if constexpr (Vectors <= kSmallVectors) {
      const int columns = spread_small_columns<E, Vectors>(a, u, dim);
      u += columns;
      if (columns) continue;
    }
    const int columns = width - u < kSpreadColumns ? width - u : kSpreadColumns;
    switch (columns) {
      case 1: spread_columns<E, 1, Vectors>(a, u, dim); break;
      case 2: spread_columns<E, 2, Vectors>(a, u, dim); break;
      case 3: spread_columns<E, 3, Vectors>(a, u, dim); break;
      case 4: spread_columns<E, 4, Vectors>(a, u, dim); break;
    }
    u += columns;
  }
}

template <class E>
static void spread(const SpreadArgs<E>& a) {
  constexpr int n = kLanes<E>;
  for (int dim = 0; dim < a.padded_dim;) {
    const int left = (a.padded_dim - dim) / n;
    const int vectors = left < kSpreadVectors ? left : kSpreadVectors;
    switch (vectors) {
      case 1: spread_dims<E, 1>(a, dim); break;
      case 2: spread_dims<E, 2>(a, dim); break;
      case 3: spread_dims<E, 3>(a, dim); break;
      case 4: spread_dims<E, 4>(a, dim); break;
    }
    dim += vectors * n;
  }
}

}  // namespace natten_core::cpu::NATTEN_ISA
