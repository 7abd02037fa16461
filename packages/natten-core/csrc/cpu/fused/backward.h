// Fused backward pass. Scores and softmax are computed again, exactly as in the forward pass:
//   dP = dO . V, dS = P * (dP - mean + dlse), mean = sum over the window of P * dP
//   dQ = scale * dS . K, dK = scale * dS^T . Q, dV = P^T . dO, dbias = dS summed over queries
// So neither the output nor the log-sum-exp is read, and P sums to 1 to rounding, which exp(S - lse) does not.
// dK and dV are gathered in the ring beside the packed keys and leave it with them; items that run at the same time
// never share keys. The bias gradient is summed per lane, folded once per chunk, and the chunks' sums are added in
// order: no atomics, the same bits for any number of threads.
#pragma once

#include "context.h"
#include "spread.h"
#include "weighted_sum.h"

namespace natten_core::cpu::NATTEN_ISA {

template <class T>
struct BackwardScratch {
  T *key_planes, *value_planes, *key_rows, *grad_key, *grad_value;  // rings of packed key rows
  T *query_planes, *query_rows, *grad_output_planes, *grad_output_rows;
  T *weights, *grad_scores, *bias, *grad_bias, *zeros, *results;
  const T** key_pointers;  // [key_rows]
  RowGroup group{};

  BackwardScratch(const Sizes<T>& s, Arena<T>& arena) {
    const int64_t ring = s.plan.ring_rows, table = s.plan.heads_per_chunk * s.bias_head;
    key_planes = arena.take(ring * s.plane), value_planes = arena.take(ring * s.plane);
    key_rows = arena.take(ring * s.row), grad_key = arena.take(ring * s.row), grad_value = arena.take(ring * s.row);
    query_planes = arena.take(s.block_planes()), query_rows = arena.take(s.block_rows());
    grad_output_planes = arena.take(s.block_planes()), grad_output_rows = arena.take(s.block_rows());
    weights = arena.take(s.block_scores()), grad_scores = arena.take(s.block_scores());
    bias = arena.take(table), grad_bias = arena.take(table);
    zeros = arena.take(static_cast<int64_t>(s.slots) * kLanes<T>);
    results = arena.take(s.block_rows() / kScoreRows);
    key_pointers = arena.template take_as<const T*>(s.key_rows);
    group.keys = arena.template take_as<KeyRow>(RowGroup::most_keys(s.p));
    group.windows = arena.template take_as<int64_t>(static_cast<int64_t>(kScoreRows) * s.key_rows);
  }
};

// Packs the queries and output gradients of one row; returns the gradient of each lane's log-sum-exp.
template <class T, class S>
NATTEN_KERNEL Vec<T> load_queries(const BackwardArgs& args, const Sizes<T>& s, const Map& map,
                                  const BackwardScratch<T>& scratch, const Work& w, int r) {
  constexpr int n = kLanes<T>;
  const Tensor& query = args.forward.query;
  const int64_t z = w.group.z, y = w.group.y + r, last = w.column + w.c.lanes - 1;
  const S *queries[n], *grads[n];
  lane_tokens<T>(s.plan, map.row<S>(query, z, y), query.axis[kX], w.column, last, queries);
  lane_tokens<T>(s.plan, map.row<S>(args.grad_output, z, y), args.grad_output.axis[kX], w.column, last, grads);
  pack_planes<T>(queries, s.head_dim, static_cast<T>(s.p.scale * kLog2E), scratch.query_planes + r * s.head_dim * n, n);
  pack_planes<T>(grads, s.head_dim, T(1), scratch.grad_output_planes + r * s.head_dim * n, n);
  const int64_t tokens = static_cast<int64_t>(r) * n * s.padded_dim;
  for (int lane = 0; lane < w.c.lanes; ++lane) {
    pack_row<T>(queries[lane], s.head_dim, static_cast<T>(s.p.scale),
                scratch.query_rows + tokens + lane * s.padded_dim);
    pack_row<T>(grads[lane], s.head_dim, T(1), scratch.grad_output_rows + tokens + lane * s.padded_dim);
  }
  Vec<T> grad_lse = {};
  if (args.grad_lse.data) {
    const T* row = map.row<T>(args.grad_lse, z, y);
    for (int lane = 0; lane < w.c.lanes; ++lane)
      grad_lse[lane] = row[s.plan.coordinate[w.column + lane] * args.grad_lse.axis[kX]];
  }
  return grad_lse;
}

// Adds the dS of query row r to the lanes of the bias gradient.
template <class T>
NATTEN_KERNEL void add_grad_bias(const Sizes<T>& s, const RowGroup& group, int r, const T* grad_scores, T* grad_bias) {
  constexpr int n = kLanes<T>;
  const int64_t row_slots = static_cast<int64_t>(s.slots) * n;
  for (int i = 0; i < group.key_rows; ++i) {
    const KeyRow& key = group.keys[i];
    if (r < key.first || r >= key.end) continue;
    T* bins = grad_bias + key.bias - (r - key.first) * row_slots;
    const T* ds = grad_scores + key.window[r] * row_slots;
    for (int64_t j = 0; j < row_slots; j += n) store<T>(bins + j, load<T>(bins + j) + load<T>(ds + j));
  }
}

// Folds the lanes of the chunk's bias gradient into its own [heads, bias rows, 2Kx-1] sums.
template <class T>
NATTEN_KERNEL void fold_grad_bias(const Sizes<T>& s, const Chunk& chunk, const T* lanes, T* sums) {
  const int64_t size = s.bias_rows * s.bias_columns;
  memset(sums, 0, static_cast<size_t>(chunk.heads * size) * sizeof(T));
  for (int32_t head = 0; head < chunk.heads; ++head, sums += size)
    for (const LaneClass& c : s.plan.classes)
      for (int64_t row = 0; row < s.bias_rows; ++row)
        for (int j = 0; j < s.slots; ++j, lanes += kLanes<T>)
          for (int lane = 0; lane < c.lanes; ++lane) sums[row * s.bias_columns + c.relative[lane] + j] += lanes[lane];
}

// Turns the scores of one query row into weights P, and dP into dS; adds dS to the bias gradient's lanes.
template <class T>
NATTEN_KERNEL void differentiate(const Sizes<T>& s, const RowGroup& group, int r, Vec<T> grad_lse, T* weights,
                                 T* grad_scores, T* grad_bias) {
  constexpr int n = kLanes<T>;
  Vec<T> most = load<T>(weights);
  for (int slot = 1; slot < s.window; ++slot) most = vmax<T>(load<T>(weights + slot * n), most);
  Vec<T> sum = {}, dot = {};
  for (int slot = 0; slot < s.window; ++slot) {
    const Vec<T> p = vexp2<T>(load<T>(weights + slot * n) - most);
    store<T>(weights + slot * n, p);
    sum += p;
    dot += p * load<T>(grad_scores + slot * n);
  }
  const Vec<T> factor = T(1) / sum, mean = dot * factor;
  for (int slot = 0; slot < s.window; ++slot) {
    const Vec<T> p = load<T>(weights + slot * n) * factor;
    store<T>(weights + slot * n, p);
    // In this order: where a query sees one key, dP - mean is 0 and dlse exact.
    store<T>(grad_scores + slot * n, p * ((load<T>(grad_scores + slot * n) - mean) + grad_lse));
  }
  if (grad_bias) add_grad_bias<T>(s, group, r, grad_scores, grad_bias);
}

template <class T, class S>
static void backward_block(const BackwardArgs& args, const Sizes<T>& s, const Map& map,
                           const BackwardScratch<T>& scratch, const Work& w, Ahead& ahead) {
  constexpr int n = kLanes<T>;
  const RowGroup& group = w.group;
  const int64_t block_window = static_cast<int64_t>(s.window) * n, token_step = static_cast<int64_t>(n) * s.padded_dim;
  Vec<T> grad_lse[kScoreRows];
  for (int r = 0; r < group.rows; ++r) grad_lse[r] = load_queries<T, S>(args, s, map, scratch, w, r);

  ahead.cut(2 * group.key_rows);
  const int64_t table = w.head * s.bias_head + w.lane_class * s.bias_class;
  const T* bias = args.forward.rpb ? scratch.bias + table : nullptr;
  T* grad_bias = args.grad_rpb ? scratch.grad_bias + table : nullptr;
  window_scores<T>(s, w, scratch.query_planes, scratch.key_planes, bias, scratch.zeros, scratch.weights, ahead);
  window_scores<T>(s, w, scratch.grad_output_planes, scratch.value_planes, nullptr, scratch.zeros, scratch.grad_scores,
                   ahead);

  alignas(kVectorBytes) T factors[n];
  store<T>(factors, broadcast<T>(static_cast<T>(s.p.scale)));
  for (int r = 0; r < group.rows; ++r) {
    T* grad_scores = scratch.grad_scores + r * block_window;
    differentiate<T>(s, group, r, grad_lse[r], scratch.weights + r * block_window, grad_scores, grad_bias);
    const Results<T, S> out(s, w, map.row<S>(args.grad_query, group.z, group.y + r), args.grad_query.axis[kX],
                            scratch.results);
    window_rows<T>(s, w, r, scratch.key_rows, scratch.key_pointers);
    weighted_sums<T>({grad_scores, scratch.key_pointers, factors, out.rows, w.c.offset, s.key_rows, s.slots, s.head_dim,
                      s.padded_dim},
                     w.c.lanes);
    out.write(w.c.lanes, s.head_dim);
  }

  SpreadArgs<T> a;
  a.lane_class = &w.c, a.token_step = token_step, a.slots = s.slots, a.padded_dim = s.padded_dim;
  for (int i = 0; i < group.key_rows; ++i) {
    const KeyRow& key = group.keys[i];
    const int64_t grad = key.slot * s.row + w.key_column * s.padded_dim;
    a.rows = key.end - key.first;
    const auto run = [&](const T* weights, const T* tokens, T* grads) {
      for (int r = key.first; r < key.end; ++r)
        a.weight[r - key.first] = weights + r * block_window + static_cast<int64_t>(key.window[r]) * s.slots * n;
      a.token = tokens + key.first * token_step, a.grad = grads + grad;
      spread<T>(a);
    };
    run(scratch.weights, scratch.grad_output_rows, scratch.grad_value);
    run(scratch.grad_scores, scratch.query_rows, scratch.grad_key);
  }
}

// Writes a finished row's gradient to user memory, or adds it where another item has written before.
template <class T, class S>
NATTEN_KERNEL void drop_row(const Sizes<T>& s, const RingRow& row, const Tensor& target, const T* tokens) {
  const Item& item = row.map.item;
  S* memory = row.memory<S>(target);
  for (int64_t column = row.begin; column < row.end; ++column, tokens += s.padded_dim) {
    const int64_t at = s.plan.band_axis == kZ ? row.z : s.plan.band_axis == kY ? row.y : column;
    const bool add = at < item.add_below || at >= item.add_from || column < item.add_columns_below;
    S* token = memory + s.plan.coordinate[column] * target.axis[kX];
    for (int d = 0; d < s.head_dim; d += kLanes<T>) {
      Vec<T> v = load<T>(tokens + d);
      if (add) v += load_dims<T>(token, d, s.head_dim);
      store_dims<T>(token, d, s.head_dim, v);
    }
  }
}

template <class T, class S>
static void backward_tile(const BackwardArgs& args, const Sizes<T>& s, const BackwardScratch<T>& scratch,
                          const Item& item, const Item* next_tile, int32_t head0) {
  const ForwardArgs& f = args.forward;
  const auto drop = [&](const RingRow& row) {
    drop_row<T, S>(s, row, args.grad_key, scratch.grad_key + row.slot * s.row);
    drop_row<T, S>(s, row, args.grad_value, scratch.grad_value + row.slot * s.row);
  };
  const auto pack = [&](const RingRow& row) {
    const S *key = row.memory<S>(f.key), *value = row.memory<S>(f.value);
    pack_key_planes<T>(s, key, f.key.axis[kX], row.begin, row.end, scratch.key_planes + row.slot * s.plane);
    pack_key_planes<T>(s, value, f.value.axis[kX], row.begin, row.end, scratch.value_planes + row.slot * s.plane);
    pack_key_rows<T>(s, key, f.key.axis[kX], row.begin, row.end, scratch.key_rows + row.slot * s.row);
    memset(scratch.grad_key + row.slot * s.row, 0, static_cast<size_t>(s.row) * sizeof(T));
    memset(scratch.grad_value + row.slot * s.row, 0, static_cast<size_t>(s.row) * sizeof(T));
  };
  const Touched touched = {{&f.key, &f.value, &args.grad_key, &args.grad_value},
                           {&f.query, &args.grad_output, &args.grad_query}};
  walk<T, S>(s, item, next_tile, touched, scratch.group, head0, drop, pack,
             [&](const Map& map, const Work& work, Ahead& ahead) {
               backward_block<T, S>(args, s, map, scratch, work, ahead);
             });
}

template <class T>
int64_t backward_scratch_bytes(const Problem& problem, const Plan& plan) {
  Arena<T> arena{nullptr};
  BackwardScratch<T>(Sizes<T>(problem, plan), arena);
  return arena.used * static_cast<int64_t>(sizeof(T));
}

// `grad_bias`: the chunk's own [heads, bias rows, 2Kx-1] sums, or null.
template <class T, class S>
void backward(const BackwardArgs& args, const Plan& plan, const Chunk& chunk, void* memory, void* grad_bias) {
  constexpr int n = kLanes<T>;
  const Sizes<T> s(args.forward.problem, plan);
  Arena<T> arena{static_cast<T*>(memory)};
  const BackwardScratch<T> scratch(s, arena);
  if (args.forward.rpb)
    fill_bias<T>(s, static_cast<const T*>(args.forward.rpb), chunk, static_cast<T>(kLog2E), scratch.bias);
  if (grad_bias) memset(scratch.grad_bias, 0, static_cast<size_t>(chunk.heads * s.bias_head) * sizeof(T));
  memset(scratch.zeros, 0, static_cast<size_t>(s.slots) * n * sizeof(T));
  for_tiles(plan, chunk, [&](const Item& tile, const Item* next) {
    backward_tile<T, S>(args, s, scratch, tile, next, chunk.head0);
  });
  if (grad_bias) fold_grad_bias<T>(s, chunk, scratch.grad_bias, static_cast<T*>(grad_bias));
}

}  // namespace natten_core::cpu::NATTEN_ISA
