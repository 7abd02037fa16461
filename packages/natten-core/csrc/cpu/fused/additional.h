// Additional keys, which all queries of a batch entry see beside their windows. They are packed once a tile; in a query
// row's scores they are the last slots, one window for all lanes.
#pragma once

#include "spread_rows.h"

namespace natten_core::cpu::NATTEN_ISA {

// The additional keys or values of an item, and what its queries add to their gradients.
template <class E>
struct Additional {
  using T = Sum<E>;
  E* planes = nullptr;  // [plane][columns]
  E* rows = nullptr;  // [key, or pair of keys][padded head_dim]
  T* gathered = nullptr;  // gradients, [key][padded head_dim]

  void take_planes(const Sizes<E>& s, const TokenSizes<E>& sizes, Arena<T>& arena) {
    planes = arena.template take_as<E>(sizes.planes * columns(s));
  }
  void take_rows(const Sizes<E>& s, const TokenSizes<E>& sizes, Arena<T>& arena) {
    rows = arena.template take_as<E>(static_cast<int64_t>(s.additional_sum) * sizes.padded_dim);
  }
  void take_gradients(const Sizes<E>& s, const TokenSizes<E>& sizes, Arena<T>& arena) {
    gathered = arena.take(static_cast<int64_t>(s.additional) * sizes.padded_dim);
  }

  static int64_t columns(const Sizes<E>& s) { return round_up(s.additional, kLanes<E>); }

  template <class S>
  NATTEN_MEMBER void pack(const Sizes<E>& s, const TokenSizes<E>& sizes, const Item& item, const Tensor& t) const {
    const auto token = [&](int i) {
      return static_cast<const S*>(t.data) + item.batch * t.batch + item.head * t.head +
             min_of(i, s.additional - 1) * t.axis[kX];
    };
    for (int i = 0; planes && i < s.additional; i += kLanes<E>) {
      const S* tokens[kLanes<E>];
      for (int lane = 0; lane < kLanes<E>; ++lane) tokens[lane] = token(i + lane);
      pack_planes<E>(tokens, sizes.head_dim, T(1), planes + i, columns(s));
    }
    for (int i = 0; rows && i < s.additional_sum; ++i) {
      E* const row = rows + static_cast<int64_t>(i) * sizes.padded_dim;
      if constexpr (kPaired<E>) {
        const int last = pair_end(i, s.additional);
        pack_pair_row(token(max_of(last - 1, 0)), s.additional == 1 ? nullptr : token(last), sizes.head_dim, row);
      } else {
        pack_row<E>(token(i), sizes.head_dim, E(1), row);
      }
    }
    if (gathered) clear(s, sizes);
  }

  NATTEN_MEMBER void clear(const Sizes<E>& s, const TokenSizes<E>& sizes) const {
    memset(gathered, 0, static_cast<size_t>(s.additional) * sizes.padded_dim * sizeof(T));
  }

  // Scores of all query rows of the work, behind those of their windows.
  NATTEN_MEMBER void scores(const Sizes<E>& s, const TokenSizes<E>& sizes, const Work& w, const E* query,
                            const T* zeros, T* out) const {
    if (s.additional == 0) return;
    ScoreArgs<E> a;
    a.query_step = static_cast<int64_t>(sizes.planes) * kLanes<E>, a.key_stride = columns(s);
    set_reach<E>(a, s.plan.everyone[w.lane_class]);
    a.slots = s.additional;
    for (int r = 0; r < w.group.rows; ++r) {
      a.scores[r] = out + (static_cast<int64_t>(r) * s.window + w.window(r)) * kLanes<E>;
      a.bias[r] = zeros;
    }
    score_planes<E>(a, w.group.rows, Reach::kUniform, sizes.planes, query, planes);
  }

  // Gathers weights^T . tokens. `weights`, `tokens` and `pairs` are those of spread_rows.
  NATTEN_MEMBER void spread(const Sizes<E>& s, const TokenSizes<E>& sizes, const Work& w, const T* weights,
                            const E* tokens, E* pairs) const {
    if (s.additional == 0) return;
    SpreadArgs<E> a;
    a.lane_class = &s.plan.everyone[w.lane_class], a.slots = s.additional, a.padded_dim = sizes.padded_dim;
    a.grad = gathered;
    const auto row_weights = [&](int r) {
      return weights + (static_cast<int64_t>(r) * s.window + w.window(r)) * kLanes<E>;
    };
    spread_row<E>(a, sizes, 0, w.group.rows, row_weights, tokens, pairs);
  }

  // Moves what has been gathered, times `factor`, to sums [key][head_dim].
  NATTEN_MEMBER void move(const Sizes<E>& s, const TokenSizes<E>& sizes, double factor, double* sums) const {
    for (int i = 0; i < s.additional; ++i) {
      T* const row = gathered + static_cast<int64_t>(i) * sizes.padded_dim;
      for (int d = 0; d < sizes.head_dim; ++d) *sums++ += factor * static_cast<double>(row[d]);
      for (int d = 0; d < sizes.padded_dim; ++d) row[d] = 0;
    }
  }
};

// Blocks of queries between moves: sums of so few terms round no worse than others do.
constexpr int kGatheredBlocks = 4;

}  // namespace natten_core::cpu::NATTEN_ISA
