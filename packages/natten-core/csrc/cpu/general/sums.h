// Sums over keys and over queries. Lanes are dims; columns that both queries of a pair see are loaded once for both.
//   weighted_sums: out[query][d] = factor[query] * sum over keys of weight[query][key] * rows[key][d]
//   spread:        grads[key][d] += sum over queries of weight[query][key] * token[query][d]
#pragma once

#include "window.h"

namespace natten_core::cpu::NATTEN_ISA::general {

constexpr int kDimVectors = 4;
// Longer sums go through a second level, so that rounding errors do not grow with the window.
constexpr int64_t kRun = 256;

// Weights of one pair, as `dots` lays out its results.
template <class T>
struct Weights {
  const T* weight;
  int64_t step;
  const T* row(const Pair& pair, int q, int row) const {  // indexed by column
    return weight + q * step + static_cast<int64_t>(row) * pair.vectors * kLanes<T> - pair.query[q].begin;
  }
  const T* extra(const Pair& pair, int q, int rows) const {
    return weight + q * step + static_cast<int64_t>(rows) * pair.vectors * kLanes<T>;
  }
};

template <class T, int Queries, int Vectors>
static void sum_dims(const Operand<T>& values, const WindowRows& rows, const Pair& pair, Weights<T> weights,
                     const T (&factor)[2], T* const (&out)[2], int dim) {
  constexpr int n = kLanes<T>;
  Vec<T> sum[2][Vectors], total[2][Vectors];  // a lone query sums even and odd columns apart: the adds would wait
  NATTEN_UNROLL
  for (int i = 0; i < 2 * Vectors; ++i) sum[i / Vectors][i % Vectors] = total[i / Vectors][i % Vectors] = Vec<T>{};
  const int64_t padded = values.padded;
  int64_t pending = 0;

  const auto add = [&](auto first, auto last, const T* row, const T* const(&weight)[2], int64_t from,
                       int64_t to) __attribute__((always_inline)) {
    constexpr int begin = decltype(first)::value, end = decltype(last)::value;
    int64_t c = from;
    const auto column = [&](int q, int64_t at, Vec<T>(&into)[Vectors]) __attribute__((always_inline)) {
      const Vec<T> w = broadcast<T>(weight[q][at]);
      NATTEN_UNROLL
      for (int v = 0; v < Vectors; ++v) into[v] += w * load<T>(row + at * padded + v * n);
    };
    if constexpr (Queries == 1) {
      for (; c + 1 < to; c += 2) column(0, c, sum[0]), column(0, c + 1, sum[1]);
      if (c < to) column(0, c, sum[0]);
    } else if constexpr (end - begin == 1) {
      for (; c < to; ++c) column(begin, c, sum[begin]);
    } else {
      for (; c < to; ++c) {
        const Vec<T> a = broadcast<T>(weight[0][c]), b = broadcast<T>(weight[1][c]);
        NATTEN_UNROLL
        for (int v = 0; v < Vectors; ++v) {
          const Vec<T> x = load<T>(row + c * padded + v * n);
          sum[0][v] += a * x, sum[1][v] += b * x;
        }
      }
    }
  };
  const auto add_runs = [&](auto first, auto last, const T* row, const T* const(&weight)[2], int64_t from, int64_t to)
                            __attribute__((always_inline)) {
                              for (; from < to; from = min_of(to, from + kRun)) {
                                if (pending >= kRun) {
                                  pending = 0;
                                  NATTEN_UNROLL
                                  for (int i = 0; i < 2 * Vectors; ++i) {
                                    total[i / Vectors][i % Vectors] += sum[i / Vectors][i % Vectors];
                                    sum[i / Vectors][i % Vectors] = Vec<T>{};
                                  }
                                }
                                const int64_t stop = min_of(to, from + kRun);
                                add(first, last, row, weight, from, stop);
                                pending += stop - from;
                              }
                            };

  for (int t = 0; t < rows.count; ++t) {
    const T* row = values.rows + rows.slot[t] * values.row + dim;
    const T* const weight[2] = {weights.row(pair, 0, t), weights.row(pair, Queries - 1, t)};
    for_runs<Queries>(pair, [&](auto first, auto last, int64_t from, int64_t to)
                                __attribute__((always_inline)) { add_runs(first, last, row, weight, from, to); });
  }
  const T* const weight[2] = {weights.extra(pair, 0, rows.count), weights.extra(pair, Queries - 1, rows.count)};
  add_runs(Constant<0>{}, Constant<Queries>{}, values.extra_rows + dim, weight, 0, rows.additional);
  NATTEN_UNROLL
  for (int q = 0; q < Queries; ++q) {
    NATTEN_UNROLL
    for (int v = 0; v < Vectors; ++v) {
      Vec<T> whole = sum[q][v] + total[q][v];
      if constexpr (Queries == 1) whole += sum[1][v] + total[1][v];
      store_dims<T>(out[q], dim + v * n, values.dim, whole * factor[q]);
    }
  }
}

template <class T, int Queries, int Vectors>
static void spread_dims(const Operand<T>& keys, const WindowRows& rows, const Pair& pair, Weights<T> weights,
                        const T* tokens, int dim) {
  constexpr int n = kLanes<T>;
  const int64_t padded = keys.padded;
  Vec<T> token[Queries][Vectors];
  NATTEN_UNROLL
  for (int q = 0; q < Queries; ++q) {
    NATTEN_UNROLL
    for (int v = 0; v < Vectors; ++v) token[q][v] = load<T>(tokens + q * padded + dim + v * n);
  }
  const auto add = [&](auto first, auto last, T* row, const T* const(&weight)[2], int64_t from, int64_t to)
                       __attribute__((always_inline)) {
                         constexpr int begin = decltype(first)::value, end = decltype(last)::value;
                         for (int64_t c = from; c < to; ++c) {
                           const Vec<T> a = broadcast<T>(weight[begin][c]), b = broadcast<T>(weight[end - 1][c]);
                           T* grad = row + c * padded;
                           NATTEN_UNROLL
                           for (int v = 0; v < Vectors; ++v) {
                             Vec<T> sum = load<T>(grad + v * n) + a * token[begin][v];
                             if constexpr (end - begin == 2) sum += b * token[1][v];
                             store<T>(grad + v * n, sum);
                           }
                         }
                       };
  for (int t = 0; t < rows.count; ++t) {
    T* row = keys.grads + rows.slot[t] * keys.row + dim;
    const T* const weight[2] = {weights.row(pair, 0, t), weights.row(pair, Queries - 1, t)};
    for_runs<Queries>(pair, [&](auto first, auto last, int64_t from, int64_t to)
                                __attribute__((always_inline)) { add(first, last, row, weight, from, to); });
  }
  const T* const weight[2] = {weights.extra(pair, 0, rows.count), weights.extra(pair, Queries - 1, rows.count)};
  add(Constant<0>{}, Constant<Queries>{}, keys.extra_grads + dim, weight, 0, rows.additional);
}

// Calls body(vectors, dim) for the dims a few vectors at a time.
template <class T, class Body>
NATTEN_KERNEL void for_dims(int padded, Body body) {
  for (int dim = 0; dim < padded;) {
    const int left = (padded - dim) / kLanes<T>, vectors = left < kDimVectors ? left : kDimVectors;
    switch (vectors) {
      case 1: body(Constant<1>{}, dim); break;
      case 2: body(Constant<2>{}, dim); break;
      case 3: body(Constant<3>{}, dim); break;
      case 4: body(Constant<4>{}, dim); break;
    }
    dim += vectors * kLanes<T>;
  }
}

template <class T>
static void weighted_sums(const Operand<T>& values, const WindowRows& rows, const Pair& pair, Weights<T> weights,
                          const T (&factor)[2], T* const (&out)[2]) {
  for_dims<T>(values.padded, [&](auto vectors, int dim) __attribute__((always_inline)) {
    constexpr int v = decltype(vectors)::value;
    if (pair.count == 2)
      sum_dims<T, 2, v>(values, rows, pair, weights, factor, out, dim);
    else
      sum_dims<T, 1, v>(values, rows, pair, weights, factor, out, dim);
  });
}

// tokens: [query][padded dim]
template <class T>
static void spread(const Operand<T>& keys, const WindowRows& rows, const Pair& pair, Weights<T> weights,
                   const T* tokens) {
  for_dims<T>(keys.padded, [&](auto vectors, int dim) __attribute__((always_inline)) {
    constexpr int v = decltype(vectors)::value;
    if (pair.count == 2)
      spread_dims<T, 2, v>(keys, rows, pair, weights, tokens, dim);
    else
      spread_dims<T, 1, v>(keys, rows, pair, weights, tokens, dim);
  });
}

}  // namespace natten_core::cpu::NATTEN_ISA::general
