// One thread's memory for one pass, and the walk over its chunk: packs what the pass needs of keys or values, and drops
// their gradients.
#pragma once

#include "../fused/backward.h"
#include "kernels.h"

namespace natten_core::cpu::NATTEN_ISA::two_stage {

template <class E>
struct Scratch {
  using T = Sum<E>;
  const TokenSizes<E>& sizes;  // of the tensors of the stage: keys and queries, or values and outputs
  // Of keys or values: rings of packed key rows, and of their gradients; null where the pass has no use for them.
  E *key_planes = nullptr, *key_rows = nullptr;
  T* grad_rows = nullptr;
  // Of queries or output gradients: [query row][plane][lane] and [kTokenRows<E>][lane][padded head_dim].
  E *planes = nullptr, *rows = nullptr;
  T *weights, *bias = nullptr, *grad_bias = nullptr, *zeros, *results = nullptr;  // weights: [query row][slot][lane]
  E* pairs = nullptr;  // weights that are summed as pairs
  const E** pointers;  // [sum_rows]
  Additional<E> additional;
  RowGroup group{};

  Scratch(const Sizes<E>& s, Arena<T>& arena, TwoStagePass pass)
      : sizes(pass == TwoStagePass::kQk || pass == TwoStagePass::kQkBackward ? s.key : s.value) {
    const auto take = [&](int64_t elements) { return arena.template take_as<E>(elements); };
    const bool qk = pass == TwoStagePass::kQk, qk_backward = pass == TwoStagePass::kQkBackward;
    const bool av_backward = pass == TwoStagePass::kAvBackward, dots = qk || av_backward;
    const int64_t ring = s.plan.ring_rows, table = s.plan.heads_per_chunk * s.bias_head;
    if (dots) key_planes = take(ring * sizes.plane), planes = take(sizes.block_planes());
    if (!dots) key_rows = take(ring * sizes.row), results = arena.take(sizes.block_row());
    if (qk_backward || av_backward)
      grad_rows = arena.take(ring * sizes.row), rows = take(kTokenRows<E> * sizes.block_row());
    if (!qk) pairs = take(s.pairs());
    if (dots) additional.take_planes(s, sizes, arena);
    if (!dots) additional.take_rows(s, sizes, arena);
    if (qk_backward || av_backward) additional.take_gradients(s, sizes, arena);
    if (qk) bias = arena.take(table);
    if (qk_backward) grad_bias = arena.take(table);
    weights = arena.take(s.block_scores() + kLanes<T> * kLanes<T>);
    zeros = arena.take(s.zeros());
    pointers = arena.template take_as<const E*>(s.sum_rows);
    group.keys = arena.template take_as<KeyRow>(RowGroup::most_keys(s.p));
    group.windows = arena.template take_as<int64_t>(static_cast<int64_t>(kScoreRows) * s.key_rows);
  }

  // Packs a row of queries, or of output gradients, in the forms that the pass needs. Pairs are not scaled.
  template <class S>
  NATTEN_MEMBER void pack_queries(const Sizes<E>& s, const Map& map, const Work& w, int r, const Tensor& t,
                                  T scale) const {
    constexpr int n = kLanes<E>;
    const S* tokens[n];
    lane_tokens<E>(s.plan, map.row<S>(t, w.group.z, w.group.y + r), t.axis[kX], w.column, w.column + w.c.lanes - 1,
                   tokens);
    if (planes) pack_planes<E>(tokens, sizes.head_dim, scale, planes + static_cast<int64_t>(r) * sizes.planes * n, n);
    if (rows) pack_tokens<E, S>(s, sizes, map, w, r, t, scale, rows);
  }

  T* row_weights(const Sizes<E>& s, int r) const { return weights + static_cast<int64_t>(r) * s.window * kLanes<T>; }
};

template <class E>
int64_t scratch_bytes(const Problem& problem, const Plan& plan, TwoStagePass pass) {
  Arena<Sum<E>> arena{nullptr};
  Scratch<E>(Sizes<E>(problem, plan), arena, pass);
  return arena.used * static_cast<int64_t>(sizeof(Sum<E>));
}

// The tensors of a stage: keys or values, those beside the window, and the gradient of the former in a backward pass,
// which is a factor times what is gathered.
struct Sources {
  const Tensor &source, &additional;
  const Tensor* grad = nullptr;
  double grad_factor = 1;
};

// Calls body(map, work, ahead) for all blocks of the chunk. The gradients of additional keys or values are added to
// `sums`, see ChunkSums.
template <class E, class S, class Body>
NATTEN_KERNEL void for_blocks(const Sizes<E>& s, const Chunk& chunk, const Scratch<E>& scratch, const Sources& t,
                              const Touched& touched, double* sums, Body body) {
  using T = Sum<E>;
  memset(scratch.zeros, 0, static_cast<size_t>(s.zeros()) * sizeof(T));
  const auto drop = [&](const RingRow& row) {
    if (t.grad) drop_row<E, S>(s, scratch.sizes, row, *t.grad, static_cast<T>(t.grad_factor), scratch.grad_rows);
  };
  const auto pack = [&](const RingRow& row) {
    if (scratch.key_planes) pack_key_planes<E, S>(s, scratch.sizes, row, t.source, scratch.key_planes);
    if (scratch.key_rows) pack_key_rows<E, S>(s, scratch.sizes, row, t.source, scratch.key_rows);
    if (t.grad)
      memset(scratch.grad_rows + row.slot * scratch.sizes.row, 0, static_cast<size_t>(scratch.sizes.row) * sizeof(T));
  };
  for_tiles(s.plan, chunk, [&](const Item& tile, const Item* next_tile) {
    double* const own = sums + place_of(s.p, s.plan, chunk, tile) * s.additional * scratch.sizes.head_dim;
    const auto move = [&] {
      if (t.grad) scratch.additional.move(s, scratch.sizes, t.grad_factor, own);
    };
    int gathered = 0;
    if (s.additional > 0) scratch.additional.template pack<S>(s, scratch.sizes, tile, t.additional);
    walk<E, S>(s, tile, next_tile, touched, scratch.group, chunk.head0, drop, pack,
               [&](const Map& map, const Work& w, Ahead& ahead) {
                 body(map, w, ahead);
                 if (++gathered % kGatheredBlocks == 0) move();
               });
    move();
  });
}

// out = factor * weights . packed rows, for the work's query row r.
template <class E, class S, class T = Sum<E>>
NATTEN_KERNEL void sum_rows(const Sizes<E>& s, const Map& map, const Work& w, int r, const Scratch<E>& scratch,
                            T factor, const Tensor& out) {
  alignas(kVectorBytes) T factors[kLanes<T>];
  store<T>(factors, broadcast<T>(factor));
  const TokenSizes<E>& sizes = scratch.sizes;
  const Results<T, S> results(s.plan, w, sizes.padded_dim, map.row<S>(out, w.group.z, w.group.y + r), out.axis[kX],
                              scratch.results);
  sum_row<E>(s, sizes, w, r, scratch.row_weights(s, r),
             {scratch.key_rows, scratch.additional.rows, scratch.pointers, scratch.pairs}, factors, results.rows);
  results.write(w.c.lanes, sizes.head_dim);
}

}  // namespace natten_core::cpu::NATTEN_ISA::two_stage
