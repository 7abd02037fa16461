// Gradients of the key rows that a block sees: each by the query rows that see it, one at a time or in pairs.
#pragma once

#include "context.h"
#include "spread.h"

namespace natten_core::cpu::NATTEN_ISA {

// Tokens of a block: those of each query row; or, if they are pairs, those of each row and the next one, and then those
// of each row and nothing.
template <class E>
constexpr int kTokenRows = kPaired<E> ? 2 * kScoreRows - 1 : kScoreRows;

// Adds the tokens of query row r, scaled unless they are pairs, to those of the rows before it.
template <class E, class S>
NATTEN_KERNEL void pack_tokens(const Sizes<E>& s, const TokenSizes<E>& sizes, const Map& map, const Work& w, int r,
                               const Tensor& t, Sum<E> scale, E* tokens) {
  const int64_t step = sizes.block_row();
  const S* row = map.row<S>(t, w.group.z, w.group.y + r);
  for (int lane = 0; lane < w.c.lanes; ++lane, tokens += sizes.padded_dim) {
    const int64_t column = s.plan.coordinate[w.column + lane] * t.axis[kX];
    if constexpr (kPaired<E>) {
      if (r > 0)
        pack_pair_row(map.row<S>(t, w.group.z, w.group.y + r - 1) + column, row + column, sizes.head_dim,
                      tokens + (r - 1) * step);
      pack_pair_row(row + column, nullptr, sizes.head_dim, tokens + (kScoreRows - 1 + r) * step);
    } else {
      pack_row<E>(row + column, sizes.head_dim, scale, tokens + r * step);
    }
  }
}

// a.grad += weights^T . tokens for the query rows [first, end); weights(r): [slot][lane] of query row r.
template <class E, class Weights>
NATTEN_KERNEL void spread_row(SpreadArgs<E>& a, const TokenSizes<E>& sizes, int first, int end, Weights weights,
                              const E* tokens, E* pairs) {
  const int rows = end - first;
  if constexpr (kPaired<E>) {
    a.rows = pair_count(rows);
    for (int j = 0; j < a.rows; ++j) {
      E* out = pairs + static_cast<int64_t>(j) * a.slots * kLanes<E>;
      narrow_rows(j, rows, [&](int r) { return weights(first + r); }, a.slots, out);
      a.weight[j] = out;
      a.token[j] = tokens + (first + (rows == 1 ? kScoreRows - 1 : pair_end(j, rows) - 1)) * sizes.block_row();
    }
  } else {
    a.rows = rows;
    for (int j = 0; j < rows; ++j) {
      a.weight[j] = weights(first + j);
      a.token[j] = tokens + (first + j) * sizes.block_row();
    }
  }
  spread<E>(a);
}

// For every key row of the work: grads += weights^T . tokens. `weights`: [query row][window slot][lane]; `grads`: the
// ring; `pairs`: room for kScoreRows rows of weights.
template <class E>
NATTEN_KERNEL void spread_rows(const Sizes<E>& s, const TokenSizes<E>& sizes, const Work& w, const Sum<E>* weights,
                               const E* tokens, E* pairs, Sum<E>* grads) {
  const int64_t row_step = static_cast<int64_t>(w.c.slots) * kLanes<E>;
  SpreadArgs<E> a;
  a.lane_class = &w.c, a.slots = w.c.slots, a.padded_dim = sizes.padded_dim;
  for (int i = 0; i < w.group.key_rows; ++i) {
    const KeyRow& key = w.group.keys[i];
    const auto row_weights = [&](int r) { return weights + r * s.window * kLanes<E> + key.window[r] * row_step; };
    a.grad = grads + key.slot * sizes.row + w.key_column * sizes.padded_dim;
    spread_row<E>(a, sizes, key.first, key.end, row_weights, tokens, pairs);
  }
}

}  // namespace natten_core::cpu::NATTEN_ISA
