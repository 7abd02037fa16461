// One thread's memory for one pass, and what every pass does before its first query.
#pragma once

#include <algorithm>

#include "kernels.h"
#include "sweep.h"

namespace natten_core::cpu::NATTEN_ISA::general {

// What each pass needs of keys, values and the two buffers of scores.
struct Needs {
  int key, value;
  bool scores, grads;
};

constexpr Needs needs_of(GeneralPass pass) {
  switch (pass) {
    case GeneralPass::kForward: return {kPlanes, kRows, true, false};
    case GeneralPass::kBackward: return {kPlanes | kRows | kGrads, kPlanes | kGrads, true, true};
    case GeneralPass::kQk: return {kPlanes, 0, true, false};
    case GeneralPass::kQkBackward: return {kRows | kGrads, 0, false, true};
    case GeneralPass::kAv: return {0, kRows, true, false};
    case GeneralPass::kAvBackward: return {0, kPlanes | kGrads, true, true};
  }
  return {};
}

template <class T>
struct Scratch {
  Operand<T> key, value;
  BiasTable table;
  int64_t step;                      // from one query's scores to the next's
  int64_t bias_elements;
  T *scores, *grad_scores;           // [2][step]: as `dots` leaves them
  T *query, *scaled_query, *output;  // [2][padded dim] tokens of the queries, or gradients
  T *bias, *grad_bias;               // as BiasTable has it
  double* totals = nullptr;          // the chunk's sums, see `settle`
  WindowRows rows;

  Scratch(Arena<T>& arena, const Problem& p, const GeneralPlan& plan, GeneralPass pass)
      : key(arena, p.head_dim, plan.max_columns, plan.ring_rows, p.additional, needs_of(pass).key),
        value(arena, p.head_dim_v, plan.max_columns, plan.ring_rows, p.additional, needs_of(pass).value),
        table(p),
        // Pairs go round the heads, each with a bias table of its own: the more tables to move, the less each has
        // gathered.
        pairs_to_settle(min_of(kSettle * (p.heads / p.heads_kv), kSettleAtMost)) {
    constexpr int n = kLanes<T>;
    const Needs needs = needs_of(pass);
    const int64_t most = p.kernel[kZ] * p.kernel[kY];
    step = odd_lines<T>(most * round_up(p.kernel[kX], n) + round_up(p.additional, n));
    scores = arena.take(needs.scores ? 2 * step : 0), grad_scores = arena.take(needs.grads ? 2 * step : 0);
    query = arena.take(2 * key.padded), scaled_query = arena.take(2 * key.padded);
    output = arena.take(2 * value.padded);
    bias_elements = table.elements(p);
    bias = arena.take(bias_elements + 2 * n), grad_bias = arena.take(bias_elements + 2 * n);
    rows.slot = arena.template take_as<int64_t>(most), rows.bias = arena.template take_as<int64_t>(most);
    rows.entry = arena.template take_as<int32_t>(most);
    rows.additional = p.additional;
  }

  // The bias of the chunk's heads, times `factor`.
  void load_bias(const void* rpb, int64_t head_kv, T factor) {
    if (rpb == nullptr) return;
    const T* from = static_cast<const T*>(rpb) + head_kv * bias_elements;
    for (int64_t i = 0; i < bias_elements; ++i) bias[i] = factor * from[i];
    for (int64_t i = bias_elements; i < bias_elements + 2 * kLanes<T>; ++i) bias[i] = 0;
  }
  // Gradients of the bias and of additional keys are sums over very many queries. `settle` moves what a few of them
  // have gathered to the chunk's sums in double, [bias of the heads], [N][head_dim], [N][head_dim_v], as far as the
  // pass has them: rounding errors do not grow with the map.
  void start_grads(void* sums, bool with_bias) {
    totals = static_cast<double*>(sums), has_bias = with_bias;
    double* end = totals;
    memset(grad_bias, 0, static_cast<size_t>(bias_elements + 2 * kLanes<T>) * sizeof(T));
    if (has_bias) end += bias_elements;
    for (const Operand<T>* operand : {&key, &value}) {
      if (operand->grads == nullptr) continue;
      memset(operand->extra_grads, 0, static_cast<size_t>(operand->extra) * sizeof(T));
      end += rows.additional * operand->dim;
    }
    std::fill(totals, end, 0.0);
  }
  void count_pair() {
    if (++pairs == pairs_to_settle) settle();
  }
  void settle() {
    double* to = totals;
    pairs = 0;
    const auto move = [&](T* from, int64_t count) {
      for (int64_t i = 0; i < count; ++i) *to++ += from[i], from[i] = 0;
    };
    if (has_bias) move(grad_bias, bias_elements);
    for (const Operand<T>* operand : {&key, &value})
      for (int64_t i = 0; operand->grads && i < rows.additional; ++i)
        move(operand->extra_grads + i * operand->padded, operand->dim);
  }

 private:
  static constexpr int64_t kSettle = 8, kSettleAtMost = 64;
  bool has_bias = false;
  int64_t pairs = 0, pairs_to_settle;
};

template <class T>
int64_t scratch_bytes(const Problem& p, const GeneralPlan& plan, GeneralPass pass) {
  Arena<T> arena{nullptr};
  Scratch<T>(arena, p, plan, pass);
  return arena.used * static_cast<int64_t>(sizeof(T));
}

// The first lanes of a vector of `count` and more keys.
template <class T>
NATTEN_KERNEL IntVec<T> lanes_below(int64_t count) {
  using I = typename Simd<T>::IntElement;
  IntVec<T> lane;
  NATTEN_UNROLL
  for (int i = 0; i < kLanes<T>; ++i) lane[i] = i;
  return lane < static_cast<I>(count < kLanes<T> ? count : kLanes<T>);
}

// Calls body(offset in a query's scores, offset in the bias table or -1, lanes that are keys) for every vector of keys.
template <class T, class Body>
NATTEN_KERNEL void for_vectors(const WindowRows& rows, const Pair& pair, int q, Body body) {
  constexpr int n = kLanes<T>;
  const Query& query = pair.query[q];
  const int64_t count = query.end - query.begin, full = count / n * n, pitch = pair.vectors * n;
  const IntVec<T> all = lanes_below<T>(n), tail = lanes_below<T>(count - full);
  for (int t = 0; t < rows.count; ++t) {
    const int64_t bias = rows.bias[t] + query.bias;
    for (int64_t j = 0; j < full; j += n) body(t * pitch + j, bias + j, all);
    if (full < count) body(t * pitch + full, bias + full, tail);
  }
  const int64_t base = rows.count * pitch;
  for (int64_t j = 0; j < rows.additional; j += n) body(base + j, int64_t{-1}, lanes_below<T>(rows.additional - j));
}

// All lanes combined, in every lane, by halves.
template <class T, int Distance = kLanes<T> / 2, class Combine>
NATTEN_KERNEL Vec<T> fold(Vec<T> v, Combine combine) {
  IntVec<T> other;
  NATTEN_UNROLL
  for (int i = 0; i < kLanes<T>; ++i) other[i] = i ^ Distance;
  v = combine(v, permute<T>(v, other));
  if constexpr (Distance > 1) return fold<T, Distance / 2>(v, combine);
  return v;
}

}  // namespace natten_core::cpu::NATTEN_ISA::general
