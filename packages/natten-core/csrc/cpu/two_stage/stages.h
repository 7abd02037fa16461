// The two stages, and their backward passes: the parts of the fused kernel, with weights in memory between them.
#pragma once

#include "scratch.h"
#include "slots.h"

namespace natten_core::cpu::NATTEN_ISA::two_stage {

template <class E, class S>
void qk(const QkArgs& args, const Plan& plan, const Chunk& chunk, void* memory) {
  using T = Sum<E>;
  const Sizes<E> s(args.problem, plan);
  Arena<T> arena{static_cast<T*>(memory)};
  const Scratch<E> scratch(s, arena, TwoStagePass::kQk);
  if (args.rpb)
    fill_bias<E>(s, static_cast<const T*>(args.rpb), chunk, static_cast<T>(kPaired<E> ? 1 / s.p.scale : 1),
                 scratch.bias);
  const Touched touched = {{{&args.key, s.p.head_dim}}, {{&args.query, s.p.head_dim}, {&args.scores, s.window}}};
  for_blocks<E, S>(s, chunk, scratch, {args.key, args.additional_key}, touched, nullptr,
                   [&](const Map& map, const Work& w, Ahead& ahead) {
                     for (int r = 0; r < w.group.rows; ++r)
                       scratch.template pack_queries<S>(s, map, w, r, args.query, static_cast<T>(s.p.scale));
                     ahead.cut(w.group.key_rows);
                     const T* bias =
                         args.rpb ? scratch.bias + w.head * s.bias_head + w.lane_class * s.bias_class : nullptr;
                     window_scores<E>(s, scratch.sizes, w, scratch.planes, scratch.key_planes, bias, scratch.zeros,
                                      kNoScore<T>, scratch.weights, ahead);
                     scratch.additional.scores(s, scratch.sizes, w, scratch.planes, scratch.zeros, scratch.weights);
                     for (int r = 0; r < w.group.rows; ++r)
                       store_slots<E, S>(s, map, w, r, scratch.row_weights(s, r), static_cast<T>(s.p.scale),
                                         kNoScore<T>, args.scores);
                   });
}

template <class E, class S>
void qk_backward(const QkBackwardArgs& args, const Plan& plan, const Chunk& chunk, void* memory,
                 const ChunkSums& sums) {
  const QkArgs& f = args.forward;
  using T = Sum<E>;
  const Sizes<E> s(f.problem, plan);
  Arena<T> arena{static_cast<T*>(memory)};
  const Scratch<E> scratch(s, arena, TwoStagePass::kQkBackward);
  if (sums.bias) memset(scratch.grad_bias, 0, static_cast<size_t>(chunk.heads * s.bias_head) * sizeof(T));
  const T scale = static_cast<T>(s.p.scale);
  const int64_t dim = s.p.head_dim;
  const Touched touched = {{{&f.key, dim}, {&args.grad_key, dim}},
                           {{&f.query, dim}, {&args.grad_scores, s.window}, {&args.grad_query, dim}}};
  // Pairs of queries are not scaled, so their sums are.
  const Sources keys = {f.key, f.additional_key, &args.grad_key, kPaired<E> ? s.p.scale : 1};
  for_blocks<E, S>(s, chunk, scratch, keys, touched, sums.additional, [&](const Map& map, const Work& w, Ahead& ahead) {
    T* bins = sums.bias ? scratch.grad_bias + w.head * s.bias_head + w.lane_class * s.bias_class : nullptr;
    ahead.cut(w.group.rows);
    for (int r = 0; r < w.group.rows; ++r) {
      T* grads = scratch.row_weights(s, r);
      scratch.template pack_queries<S>(s, map, w, r, f.query, scale);
      load_slots<E, S>(s, map, w, r, args.grad_scores, grads);
      if (bins) add_grad_bias(s, w.c, w.group, r, grads, bins);
      sum_rows<E, S>(s, map, w, r, scratch, scale, args.grad_query);
      ahead.portion();
    }
    spread_rows<E>(s, scratch.sizes, w, scratch.weights, scratch.rows, scratch.pairs, scratch.grad_rows);
    scratch.additional.spread(s, scratch.sizes, w, scratch.weights, scratch.rows, scratch.pairs);
  });
  if (sums.bias) fold_grad_bias(s, chunk, scratch.grad_bias, static_cast<T*>(sums.bias));
}

template <class E, class S>
void av(const AvArgs& args, const Plan& plan, const Chunk& chunk, void* memory) {
  using T = Sum<E>;
  const Sizes<E> s(args.problem, plan);
  Arena<T> arena{static_cast<T*>(memory)};
  const Scratch<E> scratch(s, arena, TwoStagePass::kAv);
  const Touched touched = {{{&args.value, s.p.head_dim_v}},
                           {{&args.weights, s.window}, {&args.output, s.p.head_dim_v}}};
  for_blocks<E, S>(s, chunk, scratch, {args.value, args.additional_value}, touched, nullptr,
                   [&](const Map& map, const Work& w, Ahead& ahead) {
                     ahead.cut(w.group.rows);
                     for (int r = 0; r < w.group.rows; ++r) {
                       load_slots<E, S>(s, map, w, r, args.weights, scratch.row_weights(s, r));
                       sum_rows<E, S>(s, map, w, r, scratch, T(1), args.output);
                       ahead.portion();
                     }
                   });
}

template <class E, class S>
void av_backward(const AvBackwardArgs& args, const Plan& plan, const Chunk& chunk, void* memory,
                 const ChunkSums& sums) {
  const AvArgs& f = args.forward;
  using T = Sum<E>;
  const Sizes<E> s(f.problem, plan);
  Arena<T> arena{static_cast<T*>(memory)};
  const Scratch<E> scratch(s, arena, TwoStagePass::kAvBackward);
  const int64_t dim = s.p.head_dim_v;
  const Touched touched = {{{&f.value, dim}, {&args.grad_value, dim}},
                           {{&args.grad_output, dim}, {&f.weights, s.window}, {&args.grad_weights, s.window}}};
  const Sources values = {f.value, f.additional_value, &args.grad_value};
  for_blocks<E, S>(
      s, chunk, scratch, values, touched, sums.additional, [&](const Map& map, const Work& w, Ahead& ahead) {
        for (int r = 0; r < w.group.rows; ++r) scratch.template pack_queries<S>(s, map, w, r, args.grad_output, T(1));
        ahead.cut(w.group.key_rows);
        window_scores<E>(s, scratch.sizes, w, scratch.planes, scratch.key_planes, static_cast<const T*>(nullptr),
                         scratch.zeros, T(0), scratch.weights, ahead);
        scratch.additional.scores(s, scratch.sizes, w, scratch.planes, scratch.zeros, scratch.weights);
        for (int r = 0; r < w.group.rows; ++r) {
          T* weights = scratch.row_weights(s, r);
          store_slots<E, S>(s, map, w, r, weights, T(1), T(0), args.grad_weights);
          load_slots<E, S>(s, map, w, r, f.weights, weights);
        }
        spread_rows<E>(s, scratch.sizes, w, scratch.weights, scratch.rows, scratch.pairs, scratch.grad_rows);
        scratch.additional.spread(s, scratch.sizes, w, scratch.weights, scratch.rows, scratch.pairs);
      });
}

}  // namespace natten_core::cpu::NATTEN_ISA::two_stage
