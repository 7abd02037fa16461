// Fused backward pass. Scores and softmax are computed again, exactly as in the forward pass:
//   dP = dO . V, dS = P * (dP - mean + dlse), mean = sum over the window of P * dP
//   dQ = scale * dS . K, dK = scale * dS^T . Q, dV = P^T . dO, dbias = dS summed over queries
// So neither the output nor the log-sum-exp is read, and P sums to 1 to rounding, which exp(S - lse) does not.
// dK and dV are gathered in the ring beside the packed keys and leave it with them; items that run at the same time
// never share keys. The bias gradient is summed per lane, folded once per chunk, and the chunks' sums are added in
// order: no atomics, the same bits for any number of threads.
#pragma once

#include "additional.h"
#include "context.h"
#include "spread_rows.h"
#include "sum_row.h"

namespace natten_core::cpu::NATTEN_ISA {

template <class E>
struct BackwardScratch {
  using T = Sum<E>;
  E *key_planes, *value_planes, *key_rows;  // rings of packed key rows
  T *grad_key, *grad_value;                 // and of their gradients
  E *query_planes, *grad_output_planes;
  E *query_rows, *grad_output_rows;  // [kTokenRows<E>][lane][padded head_dim]
  E* pairs;                          // weights that are summed as pairs
  T *weights, *grad_scores, *bias, *grad_bias, *zeros, *results;
  const E** key_pointers;  // [sum_rows]
  Additional<E> keys, values;
  RowGroup group{};

  BackwardScratch(const Sizes<E>& s, Arena<T>& arena) {
    const auto take = [&](int64_t elements) { return arena.template take_as<E>(elements); };
    const int64_t ring = s.plan.ring_rows, table = s.plan.heads_per_chunk * s.bias_head;
    const TokenSizes<E>&k = s.key, &v = s.value;
    key_planes = take(ring * k.plane), value_planes = take(ring * v.plane), key_rows = take(ring * k.row);
    grad_key = arena.take(ring * k.row), grad_value = arena.take(ring * v.row);
    query_planes = take(k.block_planes()), grad_output_planes = take(v.block_planes());
    query_rows = take(kTokenRows<E> * k.block_row()), grad_output_rows = take(kTokenRows<E> * v.block_row());
    pairs = take(s.pairs());
    weights = arena.take(s.block_scores()), grad_scores = arena.take(s.block_scores());
    bias = arena.take(table), grad_bias = arena.take(table);
    zeros = arena.take(s.zeros());
    results = arena.take(k.block_row());
    key_pointers = arena.template take_as<const E*>(s.sum_rows);
    keys.take_planes(s, k, arena), keys.take_rows(s, k, arena), keys.take_gradients(s, k, arena);
    values.take_planes(s, v, arena), values.take_gradients(s, v, arena);
    group.keys = arena.template take_as<KeyRow>(RowGroup::most_keys(s.p));
    group.windows = arena.template take_as<int64_t>(static_cast<int64_t>(kScoreRows) * s.key_rows);
  }

  template <class S>
  NATTEN_MEMBER void pack(const ForwardArgs& args, const Sizes<E>& s, const RingRow& row) const {
    pack_key_planes<E, S>(s, s.key, row, args.key, key_planes);
    pack_key_planes<E, S>(s, s.value, row, args.value, value_planes);
    pack_key_rows<E, S>(s, s.key, row, args.key, key_rows);
  }
  template <class S>
  NATTEN_MEMBER void pack_additional(const ForwardArgs& args, const Sizes<E>& s, const Item& item) const {
    keys.template pack<S>(s, s.key, item, args.additional_key);
    values.template pack<S>(s, s.value, item, args.additional_value);
  }
};

// The gradient of the log-sum-exp of each lane of query row r.
template <class T>
NATTEN_KERNEL Vec<T> load_grad_lse(const BackwardArgs& args, const Plan& plan, const Map& map, const Work& w, int r) {
  Vec<T> grad_lse = {};
  if (args.grad_lse.data) {
    const T* row = map.row<T>(args.grad_lse, w.group.z, w.group.y + r);
    for (int lane = 0; lane < w.c.lanes; ++lane)
      grad_lse[lane] = row[plan.coordinate[w.column + lane] * args.grad_lse.axis[kX]];
  }
  return grad_lse;
}

// Packs the queries and output gradients of one row, as planes and as tokens.
template <class E, class S>
NATTEN_KERNEL void load_queries(const BackwardArgs& args, const Sizes<E>& s, const Map& map,
                                const BackwardScratch<E>& scratch, const Work& w, int r) {
  using T = Sum<E>;
  constexpr int n = kLanes<E>;
  const Tensor& query = args.forward.query;
  const int64_t z = w.group.z, y = w.group.y + r, last = w.column + w.c.lanes - 1;
  const S *queries[n], *grads[n];
  lane_tokens<E>(s.plan, map.row<S>(query, z, y), query.axis[kX], w.column, last, queries);
  lane_tokens<E>(s.plan, map.row<S>(args.grad_output, z, y), args.grad_output.axis[kX], w.column, last, grads);
  const auto planes = [&](const TokenSizes<E>& t) { return static_cast<int64_t>(r) * t.planes * n; };
  pack_planes<E>(queries, s.key.head_dim, s.unit(), scratch.query_planes + planes(s.key), n);
  pack_planes<E>(grads, s.value.head_dim, T(1), scratch.grad_output_planes + planes(s.value), n);
  pack_tokens<E, S>(s, s.key, map, w, r, query, T(1), scratch.query_rows);
  pack_tokens<E, S>(s, s.value, map, w, r, args.grad_output, T(1), scratch.grad_output_rows);
}

// Adds the dS of query row r to the lanes of the bias gradient.
template <class E, class T = Sum<E>>
NATTEN_KERNEL void add_grad_bias(const Sizes<E>& s, const LaneClass& c, const RowGroup& group, int r,
                                 const T* grad_scores, T* grad_bias) {
  constexpr int n = kLanes<T>;
  const int64_t row_slots = static_cast<int64_t>(c.slots) * n;
  for (int i = 0; i < group.key_rows; ++i) {
    const KeyRow& key = group.keys[i];
    if (r < key.first || r >= key.end) continue;
    T* bins = grad_bias + key.bias - (r - key.first) * static_cast<int64_t>(s.slots) * n;
    const T* ds = grad_scores + key.window[r] * row_slots;
    for (int64_t j = 0; j < row_slots; j += n) store<T>(bins + j, load<T>(bins + j) + load<T>(ds + j));
  }
}

// Folds the lanes of the chunk's bias gradient into its own [heads, bias rows, 2Kx-1] sums. Slots that a lane lacks
// hold nothing that counts.
template <class E, class T = Sum<E>>
NATTEN_KERNEL void fold_grad_bias(const Sizes<E>& s, const Chunk& chunk, const T* lanes, T* sums) {
  const int64_t size = s.bias_rows * s.bias_columns;
  memset(sums, 0, static_cast<size_t>(chunk.heads * size) * sizeof(T));
  for (int32_t head = 0; head < chunk.heads; ++head, sums += size)
    for (const LaneClass& c : s.plan.classes)
      for (int64_t row = 0; row < s.bias_rows; ++row, lanes += s.slots * kLanes<T>) {
        T* bins = sums + row * s.bias_columns;
        const auto add = [&](int lane, int j) { bins[c.relative[lane] + j] += lanes[j * kLanes<T> + lane]; };
        for (int j = 0; j < c.whole; ++j)
          for (int lane = 0; lane < c.lanes; ++lane) add(lane, j);
        for (int lane = 0; lane < c.lanes; ++lane)
          for (int j = c.whole; c.offset[lane] + j < c.end[lane]; ++j) add(lane, j);
      }
}

// Turns the scores of one query row into weights P, and dP into dS; adds dS to the bias gradient's lanes.
template <class E, class T = Sum<E>>
NATTEN_KERNEL void differentiate(const Sizes<E>& s, const Work& w, int r, Vec<T> grad_lse, T* weights, T* grad_scores,
                                 T* grad_bias) {
  constexpr int n = kLanes<T>;
  const int window = w.window(r) + s.additional;
  Vec<T> sum[2] = {}, dot[2] = {};
  weigh(s, window, weights, [&](int slot, int part, Vec<T> p) __attribute__((always_inline)) {
    sum[part] += p;
    dot[part] += p * load<T>(grad_scores + slot * n);
  });
  const Vec<T> factor = T(1) / (sum[0] + sum[1]), mean = (dot[0] + dot[1]) * factor;
  for (int slot = 0; slot < window; ++slot) {
    const Vec<T> p = load<T>(weights + slot * n) * factor;
    store<T>(weights + slot * n, p);
    // In this order: where a query sees one key, dP - mean is 0 and dlse exact.
    store<T>(grad_scores + slot * n, p * ((load<T>(grad_scores + slot * n) - mean) + grad_lse));
  }
  if (grad_bias) add_grad_bias(s, w.c, w.group, r, grad_scores, grad_bias);
}

template <class E, class S>
static void backward_block(const BackwardArgs& args, const Sizes<E>& s, const Map& map,
                           const BackwardScratch<E>& scratch, const Work& w, Ahead& ahead) {
  using T = Sum<E>;
  constexpr int n = kLanes<E>;
  const RowGroup& group = w.group;
  const int64_t block_window = static_cast<int64_t>(s.window) * n;
  for (int r = 0; r < group.rows; ++r) load_queries<E, S>(args, s, map, scratch, w, r);

  ahead.cut(2 * group.key_rows);
  const int64_t table = w.head * s.bias_head + w.lane_class * s.bias_class;
  const T* bias = args.forward.rpb ? scratch.bias + table : nullptr;
  T* grad_bias = args.grad_rpb ? scratch.grad_bias + table : nullptr;
  window_scores<E>(s, s.key, w, scratch.query_planes, scratch.key_planes, bias, scratch.zeros, kNoScore<T>,
                   scratch.weights, ahead);
  scratch.keys.scores(s, s.key, w, scratch.query_planes, scratch.zeros, scratch.weights);
  window_scores<E>(s, s.value, w, scratch.grad_output_planes, scratch.value_planes, nullptr, scratch.zeros, T(0),
                   scratch.grad_scores, ahead);
  scratch.values.scores(s, s.value, w, scratch.grad_output_planes, scratch.zeros, scratch.grad_scores);

  alignas(kVectorBytes) T factors[n];
  store<T>(factors, broadcast<T>(static_cast<T>(s.p.scale)));
  for (int r = 0; r < group.rows; ++r) {
    T* grad_scores = scratch.grad_scores + r * block_window;
    const Vec<T> grad_lse = load_grad_lse<T>(args, s.plan, map, w, r);
    differentiate(s, w, r, grad_lse, scratch.weights + r * block_window, grad_scores, grad_bias);
    const Results<T, S> out(s.plan, w, s.key.padded_dim, map.row<S>(args.grad_query, group.z, group.y + r),
                            args.grad_query.axis[kX], scratch.results);
    sum_row<E>(s, s.key, w, r, grad_scores, {scratch.key_rows, scratch.keys.rows, scratch.key_pointers, scratch.pairs},
               factors, out.rows);
    out.write(w.c.lanes, s.key.head_dim);
  }
  spread_rows<E>(s, s.value, w, scratch.weights, scratch.grad_output_rows, scratch.pairs, scratch.grad_value);
  spread_rows<E>(s, s.key, w, scratch.grad_scores, scratch.query_rows, scratch.pairs, scratch.grad_key);
  scratch.values.spread(s, s.value, w, scratch.weights, scratch.grad_output_rows, scratch.pairs);
  scratch.keys.spread(s, s.key, w, scratch.grad_scores, scratch.query_rows, scratch.pairs);
}

// Writes a finished row's gradient, times `factor`, to user memory, or adds it where another item has written before.
template <class E, class S>
NATTEN_KERNEL void drop_row(const Sizes<E>& s, const TokenSizes<E>& sizes, const RingRow& row, const Tensor& target,
                            Sum<E> factor, const Sum<E>* ring) {
  using T = Sum<E>;
  const Item& item = row.map.item;
  const T* tokens = ring + row.slot * sizes.row;
  S* memory = row.memory<S>(target);
  for (int64_t column = row.begin; column < row.end; ++column, tokens += sizes.padded_dim) {
    const int64_t at = s.plan.band_axis == kZ ? row.z : s.plan.band_axis == kY ? row.y : column;
    const bool add = at < item.add_below || at >= item.add_from || column < item.add_columns_below;
    S* token = memory + s.plan.coordinate[column] * target.axis[kX];
    for (int d = 0; d < sizes.head_dim; d += kLanes<T>) {
      Vec<T> v = load<T>(tokens + d) * factor;
      if (add) v += load_dims<T>(token, d, sizes.head_dim);
      store_dims<T>(token, d, sizes.head_dim, v);
    }
  }
}

template <class E, class S, class Scratch>
static void backward_tile(const BackwardArgs& args, const Sizes<E>& s, const Scratch& scratch, const Item& item,
                          const Item* next_tile, const Chunk& chunk, double* grad_additional) {
  using T = Sum<E>;
  const ForwardArgs& f = args.forward;
  const auto drop = [&](const RingRow& row) {
    drop_row<E, S>(s, s.key, row, args.grad_key, static_cast<T>(s.p.scale), scratch.grad_key);
    drop_row<E, S>(s, s.value, row, args.grad_value, T(1), scratch.grad_value);
  };
  const auto pack = [&](const RingRow& row) {
    scratch.template pack<S>(f, s, row);
    memset(scratch.grad_key + row.slot * s.key.row, 0, static_cast<size_t>(s.key.row) * sizeof(T));
    memset(scratch.grad_value + row.slot * s.value.row, 0, static_cast<size_t>(s.value.row) * sizeof(T));
  };
  const int64_t dim = s.p.head_dim, dim_v = s.p.head_dim_v;
  const Touched touched = {{{&f.key, dim}, {&f.value, dim_v}, {&args.grad_key, dim}, {&args.grad_value, dim_v}},
                           {{&f.query, dim}, {&args.grad_output, dim_v}, {&args.grad_query, dim}}};
  double* const sums = grad_additional + place_of(s.p, s.plan, chunk, item) * s.additional * (dim + dim_v);
  const auto move = [&] {
    scratch.keys.move(s, s.key, s.p.scale, sums);
    scratch.values.move(s, s.value, 1, sums + s.additional * dim);
  };
  int gathered = 0;
  if (s.additional > 0) scratch.template pack_additional<S>(f, s, item);
  walk<E, S>(s, item, next_tile, touched, scratch.group, chunk.head0, drop, pack,
             [&](const Map& map, const Work& work, Ahead& ahead) {
               backward_block<E, S>(args, s, map, scratch, work, ahead);
               if (++gathered % kGatheredBlocks == 0) move();
             });
  move();
}

template <class E>
int64_t backward_scratch_bytes(const Problem& problem, const Plan& plan) {
  Arena<Sum<E>> arena{nullptr};
  BackwardScratch<E>(Sizes<E>(problem, plan), arena);
  return arena.used * static_cast<int64_t>(sizeof(Sum<E>));
}

// `Scratch` says by its type which backward_block there is.
template <class E, class S, class Scratch>
NATTEN_KERNEL void backward_chunk(const BackwardArgs& args, const Sizes<E>& s, const Chunk& chunk,
                                  const Scratch& scratch, const ChunkSums& sums) {
  using T = Sum<E>;
  if (args.forward.rpb) fill_bias<E>(s, static_cast<const T*>(args.forward.rpb), chunk, s.bias_factor(), scratch.bias);
  if (sums.bias) memset(scratch.grad_bias, 0, static_cast<size_t>(chunk.heads * s.bias_head) * sizeof(T));
  memset(scratch.zeros, 0, static_cast<size_t>(s.zeros()) * sizeof(T));
  for_tiles(s.plan, chunk, [&](const Item& tile, const Item* next) {
    backward_tile<E, S>(args, s, scratch, tile, next, chunk, sums.additional);
  });
  if (sums.bias) fold_grad_bias(s, chunk, scratch.grad_bias, static_cast<T*>(sums.bias));
}

template <class E, class S>
void backward(const BackwardArgs& args, const Plan& plan, const Chunk& chunk, void* memory, const ChunkSums& sums) {
  const Sizes<E> s(args.forward.problem, plan);
  Arena<Sum<E>> arena{static_cast<Sum<E>*>(memory)};
  backward_chunk<E, S>(args, s, chunk, BackwardScratch<E>(s, arena), sums);
}

}  // namespace natten_core::cpu::NATTEN_ISA
