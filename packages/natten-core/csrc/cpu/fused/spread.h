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

template <class T>
struct SpreadArgs {
  const T* weight[kScoreRows];  // [slots][lanes] of this key row, for each query row
  const T* token;               // [lanes][padded head_dim] of the first query row; the next lies token_step on
  T* grad;                      // [column][padded head_dim] of this key row, at the block's first key column
  const LaneClass* lane_class;
  int64_t token_step;
  int rows, slots, padded_dim;
};

template <class T, int Columns, int Vectors>
static void spread_columns(const SpreadArgs<T>& a, int u, int dim) {
  constexpr int n = kLanes<T>;
  const int32_t* first = a.lane_class->first_lane.data() + u;
  const int32_t* last = a.lane_class->last_lane.data() + u;
  const int32_t* offset = a.lane_class->offset;
  T* grad = a.grad + static_cast<int64_t>(u) * a.padded_dim + dim;
  Vec<T> sum[Columns][Vectors];
  NATTEN_UNROLL
  for (int i = 0; i < Columns; ++i) {
    NATTEN_UNROLL
    for (int v = 0; v < Vectors; ++v) sum[i][v] = load<T>(grad + i * a.padded_dim + v * n);
  }
  for (int r = 0; r < a.rows; ++r) {
    const T* weight = a.weight[r];
    const T* token = a.token + r * a.token_step + dim;
    const auto add_one = [&](int i, int q) __attribute__((always_inline)) {
      const Vec<T> w = broadcast<T>(weight[(u + i - offset[q]) * n + q]);
      NATTEN_UNROLL
      for (int v = 0; v < Vectors; ++v) sum[i][v] += w * load<T>(token + q * a.padded_dim + v * n);
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
      Vec<T> w[Columns];
      NATTEN_UNROLL
      for (int i = 0; i < Columns; ++i) w[i] = broadcast<T>(weight[(u + i - offset[q]) * n + q]);
      NATTEN_UNROLL
      for (int v = 0; v < Vectors; ++v) {
        const Vec<T> x = load<T>(token + q * a.padded_dim + v * n);
        NATTEN_UNROLL
        for (int i = 0; i < Columns; ++i) sum[i][v] += w[i] * x;
      }
    }
    NATTEN_UNROLL
    for (int i = 1; i < Columns; ++i)
      for (int q = end; q <= last[i]; ++q) add_one(i, q);
  }
  NATTEN_UNROLL
  for (int i = 0; i < Columns; ++i) {
    NATTEN_UNROLL
    for (int v = 0; v < Vectors; ++v) store<T>(grad + i * a.padded_dim + v * n, sum[i][v]);
  }
}

// Small windows one column apart, with everything but the block's ends known at compile time: each token is read once
// for all the columns, up to kSmallColumns, that it spreads to. `lane0`: the lane whose window begins at column u.
constexpr int kSmallColumns = 8;
constexpr int kSmallVectors = kRegisters == 32 ? 2 : 0;

template <class T, int Slots, int Vectors>
static void spread_small(const SpreadArgs<T>& a, int u, int columns, int lane0, int dim) {
  constexpr int n = kLanes<T>;
  T* grad = a.grad + static_cast<int64_t>(u) * a.padded_dim + dim;
  Vec<T> sum[kSmallColumns][Vectors];
  NATTEN_UNROLL
  for (int i = 0; i < kSmallColumns; ++i) {
    NATTEN_UNROLL
    for (int v = 0; v < Vectors; ++v) sum[i][v] = i < columns ? load<T>(grad + i * a.padded_dim + v * n) : Vec<T>{};
  }
  const int lanes = a.lane_class->lanes;
  for (int r = 0; r < a.rows; ++r) {
    const T* weight = a.weight[r] + lane0;
    const T* token = a.token + r * a.token_step + static_cast<int64_t>(lane0) * a.padded_dim + dim;
    NATTEN_UNROLL
    for (int j = 1 - Slots; j < kSmallColumns; ++j) {  // the lane, from lane0
      if (lane0 + j < 0 || lane0 + j >= lanes) continue;
      Vec<T> x[Vectors];
      NATTEN_UNROLL
      for (int v = 0; v < Vectors; ++v) x[v] = load<T>(token + j * a.padded_dim + v * n), keep<T>(x[v]);
      NATTEN_UNROLL
      for (int i = 0; i < kSmallColumns; ++i) {
        if (i < j || i >= j + Slots) continue;
        const Vec<T> w = broadcast<T>(weight[(i - j) * n + j]);
        NATTEN_UNROLL
        for (int v = 0; v < Vectors; ++v) sum[i][v] += w * x[v];
      }
    }
  }
  NATTEN_UNROLL
  for (int i = 0; i < kSmallColumns; ++i) {
    NATTEN_UNROLL
    for (int v = 0; v < Vectors; ++v)
      if (i < columns) store<T>(grad + i * a.padded_dim + v * n, sum[i][v]);
  }
}

// As many columns from u on as spread_small takes; 0 where it does not apply.
template <class T, int Vectors>
NATTEN_KERNEL int spread_small_columns(const SpreadArgs<T>& a, int u, int dim) {
  const LaneClass& c = *a.lane_class;
  const int columns = c.width - u < kSmallColumns ? c.width - u : kSmallColumns;
  const int first = c.first_lane[u];
  if (c.run_end[first] < c.last_lane[u + columns - 1]) return 0;
  const int lane0 = first + u - c.offset[first];
  switch (a.slots) {
    case 3: spread_small<T, 3, Vectors>(a, u, columns, lane0, dim); return columns;
    case 5: spread_small<T, 5, Vectors>(a, u, columns, lane0, dim); return columns;
    case 7: spread_small<T, 7, Vectors>(a, u, columns, lane0, dim); return columns;
  }
  return 0;
}

template <class T, int Vectors>
NATTEN_KERNEL void spread_dims(const SpreadArgs<T>& a, int dim) {
  const int width = a.lane_class->width;
  for (int u = 0; u < width;) {
    if constexpr (Vectors <= kSmallVectors) {
      const int columns = spread_small_columns<T, Vectors>(a, u, dim);
      u += columns;
      if (columns) continue;
    }
    const int columns = width - u < kSpreadColumns ? width - u : kSpreadColumns;
    switch (columns) {
      case 1: spread_columns<T, 1, Vectors>(a, u, dim); break;
      case 2: spread_columns<T, 2, Vectors>(a, u, dim); break;
      case 3: spread_columns<T, 3, Vectors>(a, u, dim); break;
      case 4: spread_columns<T, 4, Vectors>(a, u, dim); break;
    }
    u += columns;
  }
}

template <class T>
static void spread(const SpreadArgs<T>& a) {
  constexpr int n = kLanes<T>;
  for (int dim = 0; dim < a.padded_dim;) {
    const int left = (a.padded_dim - dim) / n;
    const int vectors = left < kSpreadVectors ? left : kSpreadVectors;
    switch (vectors) {
      case 1: spread_dims<T, 1>(a, dim); break;
      case 2: spread_dims<T, 2>(a, dim); break;
      case 3: spread_dims<T, 3>(a, dim); break;
      case 4: spread_dims<T, 4>(a, dim); break;
    }
    dim += vectors * n;
  }
}

}  // namespace natten_core::cpu::NATTEN_ISA
