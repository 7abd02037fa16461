// What the forward and the backward pass share: the bias as vectors of lanes, packed key rows, scores and weights of a
// block, and where its results go.
#pragma once

#include <type_traits>

#include "pack.h"
#include "walk.h"

namespace natten_core::cpu::NATTEN_ISA {

// Turns a query row's scores, `window` of them, into unnormalised weights and calls each(slot, part, weight), the parts
// being the even and the odd slots: one sum over all would be rounded at its full size for every slot after a key that
// has nearly all the weight. A score of minus infinity leaves a weight that no sum shows. Returns the greatest score.
template <class E, class Each>
NATTEN_KERNEL Vec<Sum<E>> weigh(const Sizes<E>& s, int window, Sum<E>* scores, Each each) {
  using T = Sum<E>;
  constexpr int n = kLanes<T>;
  Vec<T> most = load<T>(scores);
  for (int slot = 1; slot < window; ++slot) most = vmax<T>(load<T>(scores + slot * n), most);
  const T unit = s.unit();
  const Vec<T> greatest = kPaired<E> ? most * unit : most;
  const auto take = [&](int slot, int part) __attribute__((always_inline)) {
    const Vec<T> score = load<T>(scores + slot * n);
    const Vec<T> weight = vexp2<T>(kPaired<E> ? score * unit - greatest : score - greatest);
    store<T>(scores + slot * n, weight);
    each(slot, part, weight);
  };
  int slot = 0;
  for (; slot + 1 < window; slot += 2) take(slot, 0), take(slot + 1, 1);
  if (slot < window) take(slot, 0);
  return most;
}

// The bias of the chunk's heads, times `factor`, as [head][class][bias row][slot][lane].
template <class E>
NATTEN_KERNEL void fill_bias(const Sizes<E>& s, const Sum<E>* rpb, const Chunk& chunk, Sum<E> factor, Sum<E>* table) {
  constexpr int n = kLanes<E>;
  const int64_t size = s.bias_rows * s.bias_columns;
  for (const Sum<E>* bias = rpb + chunk.head0 * size; bias < rpb + (chunk.head0 + chunk.heads) * size; bias += size)
    for (const LaneClass& c : s.plan.classes)
      for (int64_t row = 0; row < s.bias_rows; ++row)
        for (int j = 0; j < s.slots; ++j, table += n)
          for (int lane = 0; lane < n; ++lane) table[lane] = factor * bias[row * s.bias_columns + c.relative[lane] + j];
}

// The memory of each lane's token; lanes past the last query repeat it.
template <class T, class S>
NATTEN_KERNEL void lane_tokens(const Plan& plan, const S* row, int64_t stride, int64_t column, int64_t last,
                               const S* (&tokens)[kLanes<T>]) {
  for (int lane = 0; lane < kLanes<T>; ++lane)
    tokens[lane] = row + plan.coordinate[min_of(column + lane, last)] * stride;
}

// The scores of some query rows at one key row, a sum's most planes at a time.
template <class E>
NATTEN_KERNEL void score_planes(ScoreArgs<E>& a, int rows, Reach reach, int planes, const E* query, const E* key) {
  for (int d = 0; d < planes; d += kScorePlanes) {
    a.query = query + d * kLanes<E>, a.key = key + d * a.key_stride;
    a.planes = static_cast<int>(min_of(kScorePlanes, planes - d));
    scores<E>(a, rows, reach);
    for (int r = 0; r < rows; ++r) a.bias[r] = a.scores[r];
  }
}

// Overwrites what slots hold that a lane's window lacks: whatever lies there, it is no part of anything.
template <class T>
static __attribute__((noinline)) void fill_lacking(const LaneClass& c, int key_rows, T missing, T* slots) {
  constexpr int n = kLanes<T>;
  IntVec<T> count;
  for (int lane = 0; lane < n; ++lane) count[lane] = c.end[lane] - c.offset[lane];
  for (int row = 0; row < key_rows; ++row, slots += c.slots * n)
    for (int j = c.whole; j < c.slots; ++j)
      store<T>(slots + j * n, j < count ? load<T>(slots + j * n) : broadcast<T>(missing));
}

// scores[row][window slot][lane] of all query rows of the work: a row has the slots of the key rows that it sees, one
// behind the other. `bias` is the lane class's table, or null; `missing` is what slots have that a lane lacks.
template <class E>
static void window_scores(const Sizes<E>& s, const TokenSizes<E>& sizes, const Work& w, const E* query,
                          const E* key_planes, const Sum<E>* bias, const Sum<E>* zeros, Sum<E> missing, Sum<E>* out,
                          Ahead& ahead) {
  constexpr int n = kLanes<E>;
  const int64_t bias_step = static_cast<int64_t>(s.slots) * n;
  ScoreArgs<E> a;
  a.query_step = static_cast<int64_t>(sizes.planes) * n, a.key_stride = s.columns;
  set_reach<E>(a, w.c);
  a.slots = w.c.slots;
  for (int i = 0; i < w.group.key_rows; ++i) {
    const KeyRow& key = w.group.keys[i];
    const int rows = key.end - key.first;
    const E* const planes = key_planes + key.slot * sizes.plane + kMargin<E> + w.key_column;
    for (int r = 0; r < rows; ++r) {
      a.scores[r] = out + (static_cast<int64_t>(r + key.first) * s.window + key.window[r + key.first] * a.slots) * n;
      a.bias[r] = bias ? bias + key.bias - r * bias_step : zeros;
    }
    score_planes<E>(a, rows, w.c.reach, sizes.planes, query + key.first * a.query_step, planes);
    ahead.portion();
  }
  if (!w.c.is_whole())
    for (int r = 0; r < w.group.rows; ++r)
      fill_lacking<Sum<E>>(w.c, w.group.window_rows(r), missing, out + static_cast<int64_t>(r) * s.window * n);
}

// Where results of one row of queries are written: memory itself, or for 16-bit types rows of scratch that are then
// rounded.
template <class T, class S>
struct Results {
  static constexpr bool kDirect = std::is_same_v<T, S>;
  S* memory[kLanes<T>];
  T* rows[kLanes<T>];

  NATTEN_MEMBER Results(const Plan& plan, const Work& w, int padded_dim, S* row, int64_t stride, T* scratch) {
    for (int lane = 0; lane < w.c.lanes; ++lane) {
      memory[lane] = row + plan.coordinate[w.column + lane] * stride;
      if constexpr (kDirect)
        rows[lane] = memory[lane];
      else
        rows[lane] = scratch + lane * padded_dim;
    }
  }

  NATTEN_MEMBER void write(int lanes, int head_dim) const {
    if constexpr (!kDirect)
      for (int lane = 0; lane < lanes; ++lane)
        for (int d = 0; d < head_dim; d += kLanes<T>) store_dims<T>(memory[lane], d, head_dim, load<T>(rows[lane] + d));
  }
};

// planes[d][margin + column - begin] for the columns of a key row
template <class E, class S>
NATTEN_KERNEL void pack_key_planes(const Sizes<E>& s, const TokenSizes<E>& sizes, const RingRow& row, const Tensor& t,
                                   E* ring) {
  const S* memory = row.memory<S>(t);
  E* planes = ring + row.slot * sizes.plane + kMargin<E>;
  for (int64_t column = row.begin; column < row.end; column += kLanes<E>) {
    const S* tokens[kLanes<E>];
    lane_tokens<E>(s.plan, memory, t.axis[kX], column, row.end - 1, tokens);
    pack_planes<E>(tokens, sizes.head_dim, Sum<E>(1), planes + (column - row.begin), s.columns);
  }
}

// rows[column - begin][d]; pairs are of the key row above and this one, or of this one and nothing.
template <class E, class S>
NATTEN_KERNEL void pack_key_rows(const Sizes<E>& s, const TokenSizes<E>& sizes, const RingRow& row, const Tensor& t,
                                 E* ring) {
  const S *memory = row.memory<S>(t), *above = row.map.key_row<S>(t, row.z, max_of(row.y - 1, 0));
  E* packed = ring + row.slot * sizes.row;
  for (int64_t column = row.begin; column < row.end; ++column, packed += sizes.padded_dim) {
    const int64_t token = s.plan.coordinate[column] * t.axis[kX];
    if constexpr (kPaired<E>)
      pack_pair_row((s.paired_rows ? above : memory) + token, s.paired_rows ? memory + token : nullptr, sizes.head_dim,
                    packed);
    else
      pack_row<E>(memory + token, sizes.head_dim, E(1), packed);
  }
}

}  // namespace natten_core::cpu::NATTEN_ISA
