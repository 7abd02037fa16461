// Forward and backward of the whole operator, two queries at a time: scores of the window, an exact softmax, the
// weighted sum of values. The backward pass computes scores and softmax again, exactly as the forward pass does, so
// that neither the output nor the log-sum-exp is read:
//   dP = dO . V, dS = P * (dP - mean + dlse), mean = sum over the window of P * dP
// (dP - mean first: where a query sees one key only, or its weights are 0 and 1, that is 0, and dlse keeps its bits)
//   dQ = scale * dS . K, dK = scale * dS^T . Q, dV = P^T . dO, dbias = dS summed over queries
#pragma once

#include "dots.h"
#include "scratch.h"
#include "sums.h"

namespace natten_core::cpu::NATTEN_ISA::general {

// Adds the bias to one query's scores, in units of log 2, and turns them into weights that are not yet normalised.
template <class T>
NATTEN_KERNEL void softmax(const Scratch<T>& s, const Pair& pair, int q, bool has_bias, Vec<T>& most, Vec<T>& sum) {
  T* scores = s.scores + q * s.step;
  most = broadcast<T>(-__builtin_inf());
  for_vectors<T>(s.rows, pair, q, [&](int64_t at, int64_t bias, IntVec<T> keys) __attribute__((always_inline)) {
    Vec<T> v = load<T>(scores + at);
    if (has_bias && bias >= 0) v += load<T>(s.bias + bias);
    v = keys ? v : broadcast<T>(-__builtin_inf());
    store<T>(scores + at, v);
    most = vmax<T>(v, most);
  });
  most = fold<T>(most, [](Vec<T> a, Vec<T> b) __attribute__((always_inline)) { return vmax<T>(a, b); });
  sum = Vec<T>{};
  for_vectors<T>(s.rows, pair, q, [&](int64_t at, int64_t, IntVec<T> keys) __attribute__((always_inline)) {
    const Vec<T> w = keys ? vexp2<T>(load<T>(scores + at) - most) : Vec<T>{};
    store<T>(scores + at, w);
    sum += w;
  });
  sum = fold<T>(sum, [](Vec<T> a, Vec<T> b) __attribute__((always_inline)) { return a + b; });
}

template <class T>
void forward(const ForwardArgs& args, const GeneralPlan& plan, const GeneralChunk& chunk, void* memory) {
  const Problem& p = args.problem;
  Arena<T> arena{static_cast<T*>(memory)};
  Scratch<T> s(arena, p, plan, GeneralPass::kForward);
  const GroupMap home(p, plan.items[chunk.item0]);
  s.load_bias(args.rpb, home.item.head, static_cast<T>(kLog2E));
  home.pack_additional(s.key, args.additional_key);
  home.pack_additional(s.value, args.additional_value);
  const Side<T> sides[] = {{s.key, args.key, args.key}, {s.value, args.value, args.value}};
  sweep<T>(p, plan, chunk, sides, s.rows, [&](const GroupMap& map, const Pair& pair) {
    for (int q = 0; q < pair.count; ++q)
      pack_row<T>(map.query<T>(args.query, pair.query[q]), s.key.dim, static_cast<T>(p.scale * kLog2E),
                  s.query + q * s.key.padded);
    dots<T>(s.key, s.rows, pair, s.query, s.scores, s.step);
    T factor[2] = {}, *out[2] = {};
    for (int q = 0; q < pair.count; ++q) {
      Vec<T> most, sum;
      softmax<T>(s, pair, q, args.rpb != nullptr, most, sum);
      factor[q] = 1 / sum[0];
      out[q] = map.query<T>(args.output, pair.query[q]);
      *map.query<T>(args.lse, pair.query[q]) = (most * static_cast<T>(kLn2) + vlog<T>(sum))[0];
    }
    weighted_sums<T>(s.value, s.rows, pair, {s.scores, s.step}, factor, out);
  });
}

// Turns one query's scores into weights P, and dP into dS.
template <class T>
NATTEN_KERNEL void differentiate(const Scratch<T>& s, const Pair& pair, int q, bool has_bias, T grad_lse) {
  T *weights = s.scores + q * s.step, *grads = s.grad_scores + q * s.step;
  Vec<T> most, sum;
  softmax<T>(s, pair, q, has_bias, most, sum);
  Vec<T> dots = {};
  for_vectors<T>(s.rows, pair, q, [&](int64_t at, int64_t, IntVec<T> keys) __attribute__((always_inline)) {
    dots += keys ? load<T>(weights + at) * load<T>(grads + at) : Vec<T>{};
  });
  dots = fold<T>(dots, [](Vec<T> a, Vec<T> b) __attribute__((always_inline)) { return a + b; });
  const Vec<T> factor = T(1) / sum, mean = dots * factor;
  for_vectors<T>(s.rows, pair, q, [&](int64_t at, int64_t bias, IntVec<T> keys) __attribute__((always_inline)) {
    const Vec<T> p = load<T>(weights + at) * factor;
    const Vec<T> ds = keys ? p * (load<T>(grads + at) - mean + grad_lse) : Vec<T>{};
    store<T>(weights + at, p);
    store<T>(grads + at, ds);
    if (has_bias && bias >= 0) store<T>(s.grad_bias + bias, load<T>(s.grad_bias + bias) + ds);
  });
}

template <class T>
void backward(const BackwardArgs& args, const GeneralPlan& plan, const GeneralChunk& chunk, void* memory, void* sums) {
  const ForwardArgs& f = args.forward;
  const Problem& p = f.problem;
  Arena<T> arena{static_cast<T*>(memory)};
  Scratch<T> s(arena, p, plan, GeneralPass::kBackward);
  const GroupMap home(p, plan.items[chunk.item0]);
  s.load_bias(f.rpb, home.item.head, static_cast<T>(kLog2E));
  s.start_grads(sums, f.rpb != nullptr);
  home.pack_additional(s.key, f.additional_key);
  home.pack_additional(s.value, f.additional_value);
  const Side<T> sides[] = {{s.key, f.key, args.grad_key}, {s.value, f.value, args.grad_value}};
  const T factor[2] = {static_cast<T>(p.scale), static_cast<T>(p.scale)};
  sweep<T>(p, plan, chunk, sides, s.rows, [&](const GroupMap& map, const Pair& pair) {
    T* out[2] = {};
    for (int q = 0; q < pair.count; ++q) {
      const T* query = map.query<T>(f.query, pair.query[q]);
      pack_row<T>(query, s.key.dim, static_cast<T>(p.scale * kLog2E), s.query + q * s.key.padded);
      pack_row<T>(query, s.key.dim, factor[q], s.scaled_query + q * s.key.padded);
      pack_row<T>(map.query<T>(args.grad_output, pair.query[q]), s.value.dim, T(1), s.output + q * s.value.padded);
      out[q] = map.query<T>(args.grad_query, pair.query[q]);
    }
    dots<T>(s.key, s.rows, pair, s.query, s.scores, s.step);
    dots<T>(s.value, s.rows, pair, s.output, s.grad_scores, s.step);
    for (int q = 0; q < pair.count; ++q)
      differentiate<T>(s, pair, q, f.rpb != nullptr,
                       args.grad_lse.data ? *map.query<T>(args.grad_lse, pair.query[q]) : T(0));
    weighted_sums<T>(s.key, s.rows, pair, {s.grad_scores, s.step}, factor, out);
    spread<T>(s.value, s.rows, pair, {s.scores, s.step}, s.output);
    spread<T>(s.key, s.rows, pair, {s.grad_scores, s.step}, s.scaled_query);
    s.count_pair();
  });
  s.settle();
}

}  // namespace natten_core::cpu::NATTEN_ISA::general
