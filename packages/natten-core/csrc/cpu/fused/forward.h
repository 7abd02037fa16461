// Fused forward pass. For each block of queries: scores of the whole window with the bias, an exact softmax
// down the lanes, the weighted sum of values; nothing larger than a block is ever stored.
#pragma once

#include "additional.h"
#include "context.h"
#include "sum_row.h"

namespace natten_core::cpu::NATTEN_ISA {

template <class E>
struct ForwardScratch {
  E *key_planes, *value_rows;  // rings of packed key rows
  E *query, *pairs;            // pairs: a query row's weights, where they are summed as pairs
  Sum<E>*scores, *bias, *zeros, *results;
  const E** value_pointers;  // [sum_rows]
  Additional<E> keys, values;
  RowGroup group{};

  ForwardScratch(const Sizes<E>& s, Arena<Sum<E>>& arena) {
    key_planes = arena.template take_as<E>(s.plan.ring_rows * s.key.plane);
    value_rows = arena.template take_as<E>(s.plan.ring_rows * s.value.row);
    query = arena.template take_as<E>(s.key.block_planes());
    pairs = arena.template take_as<E>(s.pairs());
    scores = arena.take(s.block_scores());
    bias = arena.take(s.plan.heads_per_chunk * s.bias_head);
    zeros = arena.take(s.zeros());
    results = arena.take(s.value.block_row());
    value_pointers = arena.template take_as<const E*>(s.sum_rows);
    keys.take_planes(s, s.key, arena), values.take_rows(s, s.value, arena);
    group.keys = arena.template take_as<KeyRow>(RowGroup::most_keys(s.p));
    group.windows = arena.template take_as<int64_t>(static_cast<int64_t>(kScoreRows) * s.key_rows);
  }

  template <class S>
  NATTEN_MEMBER void pack(const ForwardArgs& args, const Sizes<E>& s, const RingRow& row) const {
    pack_key_planes<E, S>(s, s.key, row, args.key, key_planes);
    pack_key_rows<E, S>(s, s.value, row, args.value, value_rows);
  }
  template <class S>
  NATTEN_MEMBER void pack_additional(const ForwardArgs& args, const Sizes<E>& s, const Item& item) const {
    keys.template pack<S>(s, s.key, item, args.additional_key);
    values.template pack<S>(s, s.value, item, args.additional_value);
  }
};

// Turns one query row's scores into unnormalised weights; returns what normalises them and the log-sum-exp.
template <class E, class T = Sum<E>>
NATTEN_KERNEL void softmax(const Sizes<E>& s, int window, T* scores, Vec<T>& factor, Vec<T>& lse) {
  Vec<T> sums[2] = {};
  const Vec<T> most =
      weigh(s, window, scores, [&](int, int part, Vec<T> w) __attribute__((always_inline)) { sums[part] += w; });
  const Vec<T> sum = sums[0] + sums[1];
  factor = T(1) / sum;
  lse = most * s.logit() + vlog<T>(sum);
}

template <class T>
NATTEN_KERNEL void store_lse(const ForwardArgs& args, const Plan& plan, const Map& map, const Work& w, int r,
                             Vec<T> lse) {
  alignas(kVectorBytes) T lses[kLanes<T>];
  store<T>(lses, lse);
  T* row = map.row<T>(args.lse, w.group.z, w.group.y + r);
  for (int lane = 0; lane < w.c.lanes; ++lane) row[plan.coordinate[w.column + lane] * args.lse.axis[kX]] = lses[lane];
}

template <class E, class S>
static void forward_block(const ForwardArgs& args, const Sizes<E>& s, const Map& map, const ForwardScratch<E>& scratch,
                          const Work& w, Ahead& ahead) {
  using T = Sum<E>;
  constexpr int n = kLanes<E>;
  const int lanes = w.c.lanes;
  const int64_t z = w.group.z, last = w.column + lanes - 1;
  for (int r = 0; r < w.group.rows; ++r) {
    const S* tokens[n];
    lane_tokens<E>(s.plan, map.row<S>(args.query, z, w.group.y + r), args.query.axis[kX], w.column, last, tokens);
    pack_planes<E>(tokens, s.key.head_dim, s.unit(), scratch.query + static_cast<int64_t>(r) * s.key.planes * n, n);
  }
  ahead.cut(w.group.key_rows);
  const T* bias = args.rpb ? scratch.bias + w.head * s.bias_head + w.lane_class * s.bias_class : nullptr;
  window_scores<E>(s, s.key, w, scratch.query, scratch.key_planes, bias, scratch.zeros, kNoScore<T>, scratch.scores,
                   ahead);
  scratch.keys.scores(s, s.key, w, scratch.query, scratch.zeros, scratch.scores);

  for (int r = 0; r < w.group.rows; ++r) {
    T* scores = scratch.scores + static_cast<int64_t>(r) * s.window * n;
    Vec<T> factor, lse;
    softmax(s, w.window(r) + s.additional, scores, factor, lse);
    alignas(kVectorBytes) T factors[n];
    store<T>(factors, factor);
    store_lse<T>(args, s.plan, map, w, r, lse);
    const Results<T, S> out(s.plan, w, s.value.padded_dim, map.row<S>(args.output, z, w.group.y + r),
                            args.output.axis[kX], scratch.results);
    sum_row<E>(s, s.value, w, r, scores,
               {scratch.value_rows, scratch.values.rows, scratch.value_pointers, scratch.pairs}, factors, out.rows);
    out.write(lanes, s.value.head_dim);
  }
}

template <class E, class S, class Scratch>
static void forward_tile(const ForwardArgs& args, const Sizes<E>& s, const Scratch& scratch, const Item& item,
                         const Item* next_tile, int32_t head0) {
  if (s.additional > 0) scratch.template pack_additional<S>(args, s, item);
  const Touched touched = {{{&args.key, s.p.head_dim}, {&args.value, s.p.head_dim_v}},
                           {{&args.query, s.p.head_dim}, {&args.output, s.p.head_dim_v}}};
  walk<E, S>(
      s, item, next_tile, touched, scratch.group, head0, [](const RingRow&) {},
      [&](const RingRow& row) { scratch.template pack<S>(args, s, row); },
      [&](const Map& map, const Work& work, Ahead& ahead) { forward_block<E, S>(args, s, map, scratch, work, ahead); });
}

template <class E>
int64_t forward_scratch_bytes(const Problem& problem, const Plan& plan) {
  Arena<Sum<E>> arena{nullptr};
  ForwardScratch<E>(Sizes<E>(problem, plan), arena);
  return arena.used * static_cast<int64_t>(sizeof(Sum<E>));
}

// `Scratch` says by its type which forward_block there is.
template <class E, class S, class Scratch>
NATTEN_KERNEL void forward_chunk(const ForwardArgs& args, const Sizes<E>& s, const Chunk& chunk,
                                 const Scratch& scratch) {
  using T = Sum<E>;
  if (args.rpb) fill_bias<E>(s, static_cast<const T*>(args.rpb), chunk, s.bias_factor(), scratch.bias);
  memset(scratch.zeros, 0, static_cast<size_t>(s.zeros()) * sizeof(T));
  for_tiles(s.plan, chunk,
            [&](const Item& tile, const Item* next) { forward_tile<E, S>(args, s, scratch, tile, next, chunk.head0); });
}

template <class E, class S>
void forward(const ForwardArgs& args, const Plan& plan, const Chunk& chunk, void* memory) {
  const Sizes<E> s(args.problem, plan);
  Arena<Sum<E>> arena{static_cast<Sum<E>*>(memory)};
  forward_chunk<E, S>(args, s, chunk, ForwardScratch<E>(s, arena));
}

}  // namespace natten_core::cpu::NATTEN_ISA
