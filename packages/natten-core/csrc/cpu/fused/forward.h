// Fused forward pass. For each block of queries: scores of the whole window with the bias, an exact softmax
// down the lanes, the weighted sum of values; nothing larger than a block is ever stored.
#pragma once

#include "context.h"
#include "weighted_sum.h"

namespace natten_core::cpu::NATTEN_ISA {

template <class T>
struct ForwardScratch {
  T *key_planes, *value_rows;  // rings of packed key rows
  T *query, *scores, *bias, *zeros, *results;
  const T** value_pointers;    // [key_rows]
  RowGroup group{};

  ForwardScratch(const Sizes<T>& s, Arena<T>& arena) {
    key_planes = arena.take(s.plan.ring_rows * s.plane);
    value_rows = arena.take(s.plan.ring_rows * s.row);
    query = arena.take(s.block_planes());
    scores = arena.take(s.block_scores());
    bias = arena.take(s.plan.heads_per_chunk * s.bias_head);
    zeros = arena.take(static_cast<int64_t>(s.slots) * kLanes<T>);
    results = arena.take(s.block_rows() / kScoreRows);
    value_pointers = arena.template take_as<const T*>(s.key_rows);
    group.keys = arena.template take_as<KeyRow>(RowGroup::most_keys(s.p));
    group.windows = arena.template take_as<int64_t>(static_cast<int64_t>(kScoreRows) * s.key_rows);
  }
};

// Turns one query row's scores into unnormalised weights; returns what normalises them and the log-sum-exp.
template <class T>
NATTEN_KERNEL void softmax(T* scores, int window, Vec<T>& factor, Vec<T>& lse) {
  constexpr int n = kLanes<T>;
  Vec<T> most = load<T>(scores);
  for (int slot = 1; slot < window; ++slot) most = vmax<T>(load<T>(scores + slot * n), most);
  Vec<T> sum = {};
  for (int slot = 0; slot < window; ++slot) {
    const Vec<T> w = vexp2<T>(load<T>(scores + slot * n) - most);
    store<T>(scores + slot * n, w);
    sum += w;
  }
  factor = T(1) / sum;
  lse = most * static_cast<T>(kLn2) + vlog<T>(sum);
}

template <class T, class S>
static void forward_block(const ForwardArgs& args, const Sizes<T>& s, const Map& map, const ForwardScratch<T>& scratch,
                          const Work& w, Ahead& ahead) {
  constexpr int n = kLanes<T>;
  const int lanes = w.c.lanes;
  const int64_t z = w.group.z, last = w.column + lanes - 1;
  for (int r = 0; r < w.group.rows; ++r) {
    const S* tokens[n];
    lane_tokens<T>(s.plan, map.row<S>(args.query, z, w.group.y + r), args.query.axis[kX], w.column, last, tokens);
    pack_planes<T>(tokens, s.head_dim, static_cast<T>(s.p.scale * kLog2E), scratch.query + r * s.head_dim * n, n);
  }
  ahead.cut(w.group.key_rows);
  const T* bias = args.rpb ? scratch.bias + w.head * s.bias_head + w.lane_class * s.bias_class : nullptr;
  window_scores<T>(s, w, scratch.query, scratch.key_planes, bias, scratch.zeros, scratch.scores, ahead);

  for (int r = 0; r < w.group.rows; ++r) {
    T* scores = scratch.scores + static_cast<int64_t>(r) * s.window * n;
    Vec<T> factor, lse;
    softmax<T>(scores, s.window, factor, lse);
    alignas(kVectorBytes) T factors[n], lses[n];
    store<T>(factors, factor), store<T>(lses, lse);
    T* lse_row = map.row<T>(args.lse, z, w.group.y + r);
    for (int lane = 0; lane < lanes; ++lane)
      lse_row[s.plan.coordinate[w.column + lane] * args.lse.axis[kX]] = lses[lane];
    const Results<T, S> out(s, w, map.row<S>(args.output, z, w.group.y + r), args.output.axis[kX], scratch.results);
    window_rows<T>(s, w, r, scratch.value_rows, scratch.value_pointers);
    weighted_sums<T>(
        {scores, scratch.value_pointers, factors, out.rows, w.c.offset, s.key_rows, s.slots, s.head_dim, s.padded_dim},
        lanes);
    out.write(lanes, s.head_dim);
  }
}

template <class T, class S>
static void forward_tile(const ForwardArgs& args, const Sizes<T>& s, const ForwardScratch<T>& scratch, const Item& item,
                         const Item* next_tile, int32_t head0) {
  const auto pack = [&](const RingRow& row) {
    pack_key_planes<T>(s, row.memory<S>(args.key), args.key.axis[kX], row.begin, row.end,
                       scratch.key_planes + row.slot * s.plane);
    pack_key_rows<T>(s, row.memory<S>(args.value), args.value.axis[kX], row.begin, row.end,
                     scratch.value_rows + row.slot * s.row);
  };
  const Touched touched = {{&args.key, &args.value}, {&args.query, &args.output}};
  walk<T, S>(
      s, item, next_tile, touched, scratch.group, head0, [](const RingRow&) {}, pack,
      [&](const Map& map, const Work& work, Ahead& ahead) { forward_block<T, S>(args, s, map, scratch, work, ahead); });
}

template <class T>
int64_t forward_scratch_bytes(const Problem& problem, const Plan& plan) {
  Arena<T> arena{nullptr};
  ForwardScratch<T>(Sizes<T>(problem, plan), arena);
  return arena.used * static_cast<int64_t>(sizeof(T));
}

template <class T, class S>
void forward(const ForwardArgs& args, const Plan& plan, const Chunk& chunk, void* memory) {
  const Sizes<T> s(args.problem, plan);
  Arena<T> arena{static_cast<T*>(memory)};
  const ForwardScratch<T> scratch(s, arena);
  if (args.rpb) fill_bias<T>(s, static_cast<const T*>(args.rpb), chunk, static_cast<T>(kLog2E), scratch.bias);
  for (int64_t i = 0; i < static_cast<int64_t>(s.slots) * kLanes<T>; ++i) scratch.zeros[i] = 0;
  for_tiles(plan, chunk,
            [&](const Item& tile, const Item* next) { forward_tile<T, S>(args, s, scratch, tile, next, chunk.head0); });
}

}  // namespace natten_core::cpu::NATTEN_ISA
