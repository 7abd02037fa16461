// One thread's memory for one pass, and the walk over its chunk: packs what the pass needs of keys or values, and drops
// their gradients.
#pragma once

#include "../fused/backward.h"
#include "kernels.h"

namespace natten_core::cpu::NATTEN_ISA::two_stage {

template <class T>
struct Scratch {
  const TokenSizes<T>& sizes;  // of the tensors of the stage: keys and queries, or values and outputs
  // Of keys or values: rings of packed key rows; null where the pass has no use for them.
  T *key_planes = nullptr, *key_rows = nullptr, *grad_rows = nullptr;
  // Of queries or output gradients: [query row][d][lane] and [query row][lane][d].
  T *planes = nullptr, *rows = nullptr;
  T *weights, *bias = nullptr, *grad_bias = nullptr, *zeros, *results = nullptr;  // weights: [query row][slot][lane]
  const T** pointers;  // [key_rows]
  Additional<T> additional;
  RowGroup group{};

  Scratch(const Sizes<T>& s, Arena<T>& arena, TwoStagePass pass)
      : sizes(pass == TwoStagePass::kQk || pass == TwoStagePass::kQkBackward ? s.key : s.value) {
    const bool qk = pass == TwoStagePass::kQk, qk_backward = pass == TwoStagePass::kQkBackward;
    const bool av_backward = pass == TwoStagePass::kAvBackward, dots = qk || av_backward;
    const int64_t ring = s.plan.ring_rows, table = s.plan.heads_per_chunk * s.bias_head;
    if (dots) key_planes = arena.take(ring * sizes.plane), planes = arena.take(sizes.block_planes());
    if (!dots) key_rows = arena.take(ring * sizes.row), results = arena.take(sizes.block_row());
    if (qk_backward || av_backward)
      grad_rows = arena.take(ring * sizes.row), rows = arena.take(kScoreRows * sizes.block_row());
    if (dots) additional.take_planes(s, sizes, arena);
    if (!dots) additional.take_rows(s, sizes, arena);
    if (qk_backward || av_backward) additional.take_gradients(s, sizes, arena);
    if (qk) bias = arena.take(table);
    if (qk_backward) grad_bias = arena.take(table);
    weights = arena.take(s.block_scores() + kLanes<T> * kLanes<T>);
    zeros = arena.take(s.zeros());
    pointers = arena.template take_as<const T*>(s.key_rows);
    group.keys = arena.template take_as<KeyRow>(RowGroup::most_keys(s.p));
    group.windows = arena.template take_as<int64_t>(static_cast<int64_t>(kScoreRows) * s.key_rows);
  }

  // Packs a row of queries, or of output gradients, in the forms that the pass needs.
  template <class S>
  NATTEN_MEMBER void pack_queries(const Sizes<T>& s, const Map& map, const Work& w, int r, const Tensor& t,
                                  T scale) const {
    constexpr int n = kLanes<T>;
    const S* tokens[n];
    lane_tokens<T>(s.plan, map.row<S>(t, w.group.z, w.group.y + r), t.axis[kX], w.column, w.column + w.c.lanes - 1,
                   tokens);
    if (planes) pack_planes<T>(tokens, sizes.head_dim, scale, planes + static_cast<int64_t>(r) * sizes.head_dim * n, n);
    for (int lane = 0; rows && lane < w.c.lanes; ++lane)
      pack_row<T>(tokens[lane], sizes.head_dim, scale, rows + r * sizes.block_row() + lane * sizes.padded_dim);
  }

  T* row_weights(const Sizes<T>& s, int r) const { return weights + static_cast<int64_t>(r) * s.window * kLanes<T>; }
};

template <class T>
int64_t scratch_bytes(const Problem& problem, const Plan& plan, TwoStagePass pass) {
  Arena<T> arena{nullptr};
  Scratch<T>(Sizes<T>(problem, plan), arena, pass);
  return arena.used * static_cast<int64_t>(sizeof(T));
}

// The tensors of a stage: keys or values, those beside the window, and the gradient of the former in a backward pass.
struct Sources {
  const Tensor &source, &additional;
  const Tensor* grad = nullptr;
};

// Calls body(map, work, ahead) for all blocks of the chunk. The gradients of additional keys or values are added to
// `sums`, see ChunkSums.
template <class T, class S, class Body>
NATTEN_KERNEL void for_blocks(const Sizes<T>& s, const Chunk& chunk, const Scratch<T>& scratch, const Sources& t,
                              const Touched& touched, double* sums, Body body) {
  memset(scratch.zeros, 0, static_cast<size_t>(s.zeros()) * sizeof(T));
  const auto drop = [&](const RingRow& row) {
    if (t.grad) drop_row<T, S>(s, scratch.sizes, row, *t.grad, T(1), scratch.grad_rows);
  };
  const auto pack = [&](const RingRow& row) {
    if (scratch.key_planes) pack_key_planes<T, S>(s, scratch.sizes, row, t.source, scratch.key_planes);
    if (scratch.key_rows) pack_key_rows<T, S>(s, scratch.sizes, row, t.source, scratch.key_rows);
    if (t.grad)
      memset(scratch.grad_rows + row.slot * scratch.sizes.row, 0, static_cast<size_t>(scratch.sizes.row) * sizeof(T));
  };
  for_tiles(s.plan, chunk, [&](const Item& tile, const Item* next_tile) {
    double* const own = sums + place_of(s.p, s.plan, chunk, tile) * s.additional * scratch.sizes.head_dim;
    const auto move = [&] {
      if (t.grad) scratch.additional.move(s, scratch.sizes, 1, own);
    };
    int gathered = 0;
    if (s.additional > 0) scratch.additional.template pack<S>(s, scratch.sizes, tile, t.additional);
    walk<T, S>(s, tile, next_tile, touched, scratch.group, chunk.head0, drop, pack,
               [&](const Map& map, const Work& w, Ahead& ahead) {
                 body(map, w, ahead);
                 if (++gathered % kGatheredBlocks == 0) move();
               });
    move();
  });
}

// out = factor * weights . packed rows, for the work's query row r.
template <class T, class S>
NATTEN_KERNEL void sum_rows(const Sizes<T>& s, const Map& map, const Work& w, int r, const Scratch<T>& scratch,
                            T factor, const Tensor& out) {
  alignas(kVectorBytes) T factors[kLanes<T>];
  store<T>(factors, broadcast<T>(factor));
  const TokenSizes<T>& sizes = scratch.sizes;
  const Results<T, S> results(s.plan, w, sizes.padded_dim, map.row<S>(out, w.group.z, w.group.y + r), out.axis[kX],
                              scratch.results);
  const int rows = window_rows<T>(s, sizes, w, r, scratch.key_rows, scratch.pointers);
  weighted_sums<T>({scratch.row_weights(s, r), scratch.pointers, factors, results.rows, w.c.offset, w.c.end, rows,
                    w.c.slots, sizes.head_dim, sizes.padded_dim, w.c.is_whole(), scratch.additional.rows, s.additional},
                   w.c.lanes);
  results.write(w.c.lanes, sizes.head_dim);
}

}  // namespace natten_core::cpu::NATTEN_ISA::two_stage
