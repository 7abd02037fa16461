// The two stages apart, see natten_core/two_stage.h, and their backward passes.
#pragma once

#include "attention.h"

namespace natten_core::cpu::NATTEN_ISA::general {

// Calls body(slot, offset in a query's scores, keys) for each run of slots that hold keys.
template <class T, class Body>
NATTEN_KERNEL void for_slots(const Problem& p, const WindowRows& rows, const Pair& pair, int q, Body body) {
  const Query& query = pair.query[q];
  const int64_t pitch = pair.vectors * kLanes<T>;
  for (int t = 0; t < rows.count; ++t) body(rows.entry[t] * p.kernel[kX], t * pitch, query.end - query.begin);
  if (rows.additional) body(p.kernel[kZ] * p.kernel[kY] * p.kernel[kX], rows.count * pitch, rows.additional);
}

// Writes one query's scores, and `missing` to the slots that its window lacks.
template <class T>
NATTEN_KERNEL void store_slots(const Problem& p, const WindowRows& rows, const Pair& pair, int q, const T* scores,
                               T missing, T* slots) {
  const int64_t window = p.kernel[kZ] * p.kernel[kY] * p.kernel[kX];
  const Query& query = pair.query[q];
  if ((query.end - query.begin) * rows.count < window)
    for (int64_t i = 0; i < window; ++i) slots[i] = missing;
  for_slots<T>(p, rows, pair, q, [&](int64_t slot, int64_t at, int64_t count) __attribute__((always_inline)) {
    for (int64_t i = 0; i < count; ++i) slots[slot + i] = scores[at + i];
  });
}

template <class T>
NATTEN_KERNEL void load_slots(const Problem& p, const WindowRows& rows, const Pair& pair, int q, const T* slots,
                              T* scores) {
  for_slots<T>(p, rows, pair, q, [&](int64_t slot, int64_t at, int64_t count) __attribute__((always_inline)) {
    for (int64_t i = 0; i < count; ++i) scores[at + i] = slots[slot + i];
  });
}

template <class T>
void qk(const QkArgs& args, const GeneralPlan& plan, const GeneralChunk& chunk, void* memory) {
  const Problem& p = args.problem;
  Arena<T> arena{static_cast<T*>(memory)};
  Scratch<T> s(arena, p, plan, GeneralPass::kQk);
  const GroupMap home(p, plan.items[chunk.item0]);
  s.load_bias(args.rpb, home.item.head, T(1));
  home.pack_additional(s.key, args.additional_key);
  const Side<T> sides[] = {{s.key, args.key, args.key}};
  sweep<T>(p, plan, chunk, sides, s.rows, [&](const GroupMap& map, const Pair& pair) {
    for (int q = 0; q < pair.count; ++q)
      pack_row<T>(map.query<T>(args.query, pair.query[q]), s.key.dim, static_cast<T>(p.scale),
                  s.query + q * s.key.padded);
    dots<T>(s.key, s.rows, pair, s.query, s.scores, s.step);
    for (int q = 0; q < pair.count; ++q) {
      T* scores = s.scores + q * s.step;
      for_vectors<T>(s.rows, pair, q, [&](int64_t at, int64_t bias, IntVec<T>) __attribute__((always_inline)) {
        if (args.rpb && bias >= 0) store<T>(scores + at, load<T>(scores + at) + load<T>(s.bias + bias));
      });
      store_slots<T>(p, s.rows, pair, q, scores, static_cast<T>(-__builtin_inf()),
                     map.query<T>(args.scores, pair.query[q]));
    }
  });
}

template <class T>
void qk_backward(const QkBackwardArgs& args, const GeneralPlan& plan, const GeneralChunk& chunk, void* memory,
                 void* sums) {
  const QkArgs& f = args.forward;
  const Problem& p = f.problem;
  Arena<T> arena{static_cast<T*>(memory)};
  Scratch<T> s(arena, p, plan, GeneralPass::kQkBackward);
  const GroupMap home(p, plan.items[chunk.item0]);
  s.start_grads(sums, f.rpb != nullptr);
  home.pack_additional(s.key, f.additional_key);
  const Side<T> sides[] = {{s.key, f.key, args.grad_key}};
  const T factor[2] = {static_cast<T>(p.scale), static_cast<T>(p.scale)};
  sweep<T>(p, plan, chunk, sides, s.rows, [&](const GroupMap& map, const Pair& pair) {
    T* out[2] = {};
    for (int q = 0; q < pair.count; ++q) {
      T* grads = s.grad_scores + q * s.step;
      pack_row<T>(map.query<T>(f.query, pair.query[q]), s.key.dim, factor[q], s.scaled_query + q * s.key.padded);
      load_slots<T>(p, s.rows, pair, q, map.query<T>(args.grad_scores, pair.query[q]), grads);
      out[q] = map.query<T>(args.grad_query, pair.query[q]);
      if (f.rpb == nullptr) continue;
      for_vectors<T>(s.rows, pair, q, [&](int64_t at, int64_t bias, IntVec<T> keys) __attribute__((always_inline)) {
        if (bias < 0) return;
        const Vec<T> ds = keys ? load<T>(grads + at) : Vec<T>{};
        store<T>(s.grad_bias + bias, load<T>(s.grad_bias + bias) + ds);
      });
    }
    weighted_sums<T>(s.key, s.rows, pair, {s.grad_scores, s.step}, factor, out);
    spread<T>(s.key, s.rows, pair, {s.grad_scores, s.step}, s.scaled_query);
    s.count_pair();
  });
  s.settle();
}

template <class T>
void av(const AvArgs& args, const GeneralPlan& plan, const GeneralChunk& chunk, void* memory) {
  const Problem& p = args.problem;
  Arena<T> arena{static_cast<T*>(memory)};
  Scratch<T> s(arena, p, plan, GeneralPass::kAv);
  const GroupMap home(p, plan.items[chunk.item0]);
  home.pack_additional(s.value, args.additional_value);
  const Side<T> sides[] = {{s.value, args.value, args.value}};
  const T factor[2] = {1, 1};
  sweep<T>(p, plan, chunk, sides, s.rows, [&](const GroupMap& map, const Pair& pair) {
    T* out[2] = {};
    for (int q = 0; q < pair.count; ++q) {
      load_slots<T>(p, s.rows, pair, q, map.query<T>(args.weights, pair.query[q]), s.scores + q * s.step);
      out[q] = map.query<T>(args.output, pair.query[q]);
    }
    weighted_sums<T>(s.value, s.rows, pair, {s.scores, s.step}, factor, out);
  });
}

template <class T>
void av_backward(const AvBackwardArgs& args, const GeneralPlan& plan, const GeneralChunk& chunk, void* memory,
                 void* sums) {
  const AvArgs& f = args.forward;
  const Problem& p = f.problem;
  Arena<T> arena{static_cast<T*>(memory)};
  Scratch<T> s(arena, p, plan, GeneralPass::kAvBackward);
  const GroupMap home(p, plan.items[chunk.item0]);
  s.start_grads(sums, false);
  home.pack_additional(s.value, f.additional_value);
  const Side<T> sides[] = {{s.value, f.value, args.grad_value}};
  sweep<T>(p, plan, chunk, sides, s.rows, [&](const GroupMap& map, const Pair& pair) {
    for (int q = 0; q < pair.count; ++q) {
      load_slots<T>(p, s.rows, pair, q, map.query<T>(f.weights, pair.query[q]), s.scores + q * s.step);
      pack_row<T>(map.query<T>(args.grad_output, pair.query[q]), s.value.dim, T(1), s.output + q * s.value.padded);
    }
    dots<T>(s.value, s.rows, pair, s.output, s.grad_scores, s.step);
    for (int q = 0; q < pair.count; ++q)
      store_slots<T>(p, s.rows, pair, q, s.grad_scores + q * s.step, T(0),
                     map.query<T>(args.grad_weights, pair.query[q]));
    spread<T>(s.value, s.rows, pair, {s.scores, s.step}, s.output);
    s.count_pair();
  });
  s.settle();
}

}  // namespace natten_core::cpu::NATTEN_ISA::general
