// Fused backward pass. Scores are computed again, weights come from the saved log-sum-exp:
//   P = exp(S - lse), dP = dO . V, dS = P * (dP - delta), delta = sum_d dO * O - dlse
//   dQ = scale * dS . K, dK = scale * dS^T . Q, dV = P^T . dO, dbias = dS summed over queries
// dK and dV are gathered in the ring beside the packed keys and leave it with them; items that run at the same time
// never share keys. The bias gradient is summed per lane, folded once per chunk, and the chunks' sums are added in
// order: no atomics, the same bits for any number of threads.
#pragma once

#include "context.h"
#include "math.h"
#include "spread.h"
#include "weighted_sum.h"

namespace natten_core::cpu::NATTEN_ISA {

template <class T>
struct BackwardScratch {
  T *key_planes, *value_planes, *key_rows, *grad_key, *grad_value;  // rings of packed key rows
  T *query_planes, *query_rows, *grad_output_planes, *grad_output_rows;
  T *weights, *grad_scores, *bias, *grad_bias, *zeros;
  const T** key_pointers;  // [key_rows]

  BackwardScratch(const Sizes<T>& s, Arena<T>& arena) {
    const int64_t ring = s.plan.ring_rows, table = s.plan.heads_per_chunk * s.bias_head;
    key_planes = arena.take(ring * s.plane), value_planes = arena.take(ring * s.plane);
    key_rows = arena.take(ring * s.row), grad_key = arena.take(ring * s.row), grad_value = arena.take(ring * s.row);
    query_planes = arena.take(s.block_planes()), query_rows = arena.take(s.block_rows());
    grad_output_planes = arena.take(s.block_planes()), grad_output_rows = arena.take(s.block_rows());
    weights = arena.take(s.block_scores()), grad_scores = arena.take(s.block_scores());
    bias = arena.take(table), grad_bias = arena.take(table);
    zeros = arena.take(static_cast<int64_t>(s.slots) * kLanes<T>);
    key_pointers = reinterpret_cast<const T**>(arena.take(2 * s.key_rows));
  }
};

// Packs the queries and output gradients of one row; lse and delta of each lane.
template <class T>
NATTEN_KERNEL void load_queries(const BackwardArgs& args, const Sizes<T>& s, const Map& map,
                                const BackwardScratch<T>& scratch, const Work& w, int r, Vec<T>& lse, Vec<T>& delta) {
  constexpr int n = kLanes<T>;
  const ForwardArgs& f = args.forward;
  const int64_t y = w.y + r, last = w.column + w.c.lanes - 1;
  const T scale = static_cast<T>(s.p.scale);
  const T *query[n], *grad_output[n], *output[n];
  lane_tokens<T>(s.plan, map.row<T>(f.query, w.z, y), f.query.axis[kX], w.column, last, query);
  lane_tokens<T>(s.plan, map.row<T>(args.grad_output, w.z, y), args.grad_output.axis[kX], w.column, last, grad_output);
  lane_tokens<T>(s.plan, map.row<T>(f.output, w.z, y), f.output.axis[kX], w.column, last, output);
  pack_planes<T>(query, s.head_dim, scale, scratch.query_planes + r * s.head_dim * n, n);
  pack_planes<T>(grad_output, s.head_dim, T(1), scratch.grad_output_planes + r * s.head_dim * n, n);
  const T* lse_row = map.row<T>(f.lse, w.z, y);
  const T* grad_lse_row = args.grad_lse.data ? map.row<T>(args.grad_lse, w.z, y) : nullptr;
  for (int lane = 0; lane < n; ++lane) {
    const int64_t token = (r * n + lane) * s.padded_dim;
    pack_row<T>(query[lane], s.head_dim, scale, scratch.query_rows + token);
    pack_row<T>(grad_output[lane], s.head_dim, T(1), scratch.grad_output_rows + token);
    Vec<T> products = {};
    for (int d = 0; d < s.padded_dim; d += n)
      products += load<T>(scratch.grad_output_rows + token + d) * load_dims<T>(output[lane], d, s.head_dim);
    T sum = 0;
    for (int i = 0; i < n; ++i) sum += products[i];
    const int64_t x = s.plan.coordinate[min_of(w.column + lane, last)];
    lse[lane] = lse_row[x * f.lse.axis[kX]];
    delta[lane] = grad_lse_row ? sum - grad_lse_row[x * args.grad_lse.axis[kX]] : sum;
  }
}

// Scores and dP of one query row to weights and dS; adds dS to the bias gradient's lanes.
template <class T>
NATTEN_KERNEL void differentiate(const Sizes<T>& s, const Map& map, const Work& w, int r, Vec<T> lse, Vec<T> delta,
                                 T* weights, T* grad_scores, T* grad_bias) {
  constexpr int n = kLanes<T>;
  const int64_t z0 = map.z_start(w.z), y0 = map.y_start(w.y + r), *kernel = s.p.kernel;
  for (int64_t t = 0; t < s.key_rows; ++t) {
    T* bins = grad_bias ? grad_bias + s.bias_row(z0 + t / kernel[kY] - w.z + kernel[kZ] - 1,
                                                 y0 + t % kernel[kY] - (w.y + r) + kernel[kY] - 1)
                        : nullptr;
    for (int j = 0; j < s.slots; ++j, weights += n, grad_scores += n) {
      const Vec<T> p = vexp<T>(load<T>(weights) - lse);
      const Vec<T> ds = p * (load<T>(grad_scores) - delta);
      store<T>(weights, p), store<T>(grad_scores, ds);
      if (bins) store<T>(bins + j * n, load<T>(bins + j * n) + ds);
    }
  }
}

template <class T>
static void backward_block(const BackwardArgs& args, const Sizes<T>& s, const Map& map, const Ring& ring,
                           const BackwardScratch<T>& scratch, const Work& w) {
  constexpr int n = kLanes<T>;
  const int64_t block_window = static_cast<int64_t>(s.window) * n, token_step = static_cast<int64_t>(n) * s.padded_dim;
  Vec<T> lse[kScoreRows], delta[kScoreRows];
  for (int r = 0; r < w.rows; ++r) load_queries<T>(args, s, map, scratch, w, r, lse[r], delta[r]);

  const int64_t table = w.head * s.bias_head + w.lane_class * s.bias_class;
  const T* bias = args.forward.rpb ? scratch.bias + table : nullptr;
  T* grad_bias = args.grad_rpb ? scratch.grad_bias + table : nullptr;
  window_scores<T>(s, map, ring, w, scratch.query_planes, scratch.key_planes, bias, scratch.zeros, scratch.weights);
  window_scores<T>(s, map, ring, w, scratch.grad_output_planes, scratch.value_planes, nullptr, scratch.zeros,
                   scratch.grad_scores);

  alignas(kVectorBytes) T factors[n];
  store<T>(factors, broadcast<T>(static_cast<T>(s.p.scale)));
  for (int r = 0; r < w.rows; ++r) {
    T* grad_scores = scratch.grad_scores + r * block_window;
    differentiate<T>(s, map, w, r, lse[r], delta[r], scratch.weights + r * block_window, grad_scores, grad_bias);
    T *grad_row = map.row<T>(args.grad_query, w.z, w.y + r), *out[n];
    for (int lane = 0; lane < w.c.lanes; ++lane)
      out[lane] = grad_row + s.plan.coordinate[w.column + lane] * args.grad_query.axis[kX];
    window_rows<T>(s, map, ring, w, w.y + r, scratch.key_rows, scratch.key_pointers);
    weighted_sums<T>(
        {grad_scores, scratch.key_pointers, factors, out, w.c.offset, s.key_rows, s.slots, s.head_dim, s.padded_dim},
        w.c.lanes);
  }

  SpreadArgs<T> a;
  a.lane_class = &w.c, a.token_step = token_step, a.padded_dim = s.padded_dim;
  for_key_rows(map, w.z, w.y, w.rows, [&](int64_t kz, int64_t ky, int first, int end) {
    const int64_t grad = ring.slot(kz * map.y_length + ky) * s.row + w.key_column * s.padded_dim;
    a.rows = end - first;
    const auto run = [&](const T* weights, const T* tokens, T* grads) {
      for (int r = first; r < end; ++r)
        a.weight[r - first] =
            weights + r * block_window + slot_row(map, w.z, w.y + r, kz, ky) * static_cast<int64_t>(s.slots) * n;
      a.token = tokens + first * token_step, a.grad = grads + grad;
      spread<T>(a);
    };
    run(scratch.weights, scratch.grad_output_rows, scratch.grad_value);
    run(scratch.grad_scores, scratch.query_rows, scratch.grad_key);
  });
}

// Writes a finished row's gradient to user memory, or adds it where another item has written before.
template <class T>
NATTEN_KERNEL void drop_row(const Sizes<T>& s, const Map& map, const Tensor& target, int64_t z, int64_t y,
                            int64_t begin, int64_t end, const T* rows) {
  const Item& item = map.item;
  T* memory = map.row<T>(target, z, y);
  for (int64_t column = begin; column < end; ++column, rows += s.padded_dim) {
    const int64_t at = s.plan.band_axis == kZ ? z : s.plan.band_axis == kY ? y : column;
    const bool add = at < item.add_below || at >= item.add_from || column < item.add_columns_below;
    T* token = memory + s.plan.coordinate[column] * target.axis[kX];
    for (int d = 0; d < s.head_dim; d += kLanes<T>) {
      Vec<T> v = load<T>(rows + d);
      if (add) v += load_dims<T>(token, d, s.head_dim);
      store_dims<T>(token, d, s.head_dim, v);
    }
  }
}

template <class T>
static void backward_tile(const BackwardArgs& args, const Sizes<T>& s, const BackwardScratch<T>& scratch,
                          const Item& item, int32_t head0) {
  const ForwardArgs& f = args.forward;
  const Map map(s.p, item);
  Ring ring{s.plan.ring_rows};
  int64_t begin, end;
  key_columns(s.plan, item, begin, end);
  const auto advance = [&](int64_t oldest, int64_t next) {
    for (; ring.oldest < min_of(oldest, ring.next); ++ring.oldest) {
      const int64_t z = ring.oldest / map.y_length, y = ring.oldest % map.y_length, slot = ring.slot(ring.oldest);
      drop_row<T>(s, map, args.grad_key, z, y, begin, end, scratch.grad_key + slot * s.row);
      drop_row<T>(s, map, args.grad_value, z, y, begin, end, scratch.grad_value + slot * s.row);
    }
    if (ring.next <= oldest) ring.next = ring.oldest = oldest;
    for (; ring.next < next; ++ring.next) {
      const int64_t z = ring.next / map.y_length, y = ring.next % map.y_length, slot = ring.slot(ring.next);
      const T *key = map.row<T>(f.key, z, y), *value = map.row<T>(f.value, z, y);
      pack_key_planes<T>(s, key, f.key.axis[kX], begin, end, scratch.key_planes + slot * s.plane);
      pack_key_planes<T>(s, value, f.value.axis[kX], begin, end, scratch.value_planes + slot * s.plane);
      pack_key_rows<T>(s, key, f.key.axis[kX], begin, end, scratch.key_rows + slot * s.row);
      memset(scratch.grad_key + slot * s.row, 0, static_cast<size_t>(s.row) * sizeof(T));
      memset(scratch.grad_value + slot * s.row, 0, static_cast<size_t>(s.row) * sizeof(T));
    }
  };
  walk(s.plan, map, begin, item.head - head0, advance,
       [&](const Work& work) { backward_block<T>(args, s, map, ring, scratch, work); });
  advance(ring.next, ring.next);
}

template <class T>
int64_t backward_scratch_bytes(const Problem& problem, const Plan& plan) {
  Arena<T> arena{nullptr};
  BackwardScratch<T>(Sizes<T>(problem, plan), arena);
  return arena.used * static_cast<int64_t>(sizeof(T));
}

// `grad_bias`: the chunk's own [heads, bias rows, 2Kx-1] sums, or null.
template <class T>
void backward(const BackwardArgs& args, const Plan& plan, const Chunk& chunk, void* memory, void* grad_bias) {
  constexpr int n = kLanes<T>;
  const Sizes<T> s(args.forward.problem, plan);
  Arena<T> arena{static_cast<T*>(memory)};
  const BackwardScratch<T> scratch(s, arena);
  if (args.forward.rpb) fill_bias<T>(s, static_cast<const T*>(args.forward.rpb), chunk, scratch.bias);
  if (grad_bias) memset(scratch.grad_bias, 0, static_cast<size_t>(chunk.heads * s.bias_head) * sizeof(T));
  memset(scratch.zeros, 0, static_cast<size_t>(s.slots) * n * sizeof(T));
  for (int32_t i = chunk.item0; i < chunk.item1; ++i)
    for_tiles(plan, plan.items[i], [&](const Item& tile) { backward_tile<T>(args, s, scratch, tile, chunk.head0); });
  if (!grad_bias) return;
  const int64_t size = s.bias_rows * s.bias_columns;
  T* sums = static_cast<T*>(grad_bias);
  memset(sums, 0, static_cast<size_t>(chunk.heads * size) * sizeof(T));
  const T* lanes = scratch.grad_bias;
  for (int32_t head = 0; head < chunk.heads; ++head, sums += size)
    for (const LaneClass& c : plan.classes)
      for (int64_t row = 0; row < s.bias_rows; ++row)
        for (int j = 0; j < s.slots; ++j, lanes += n)
          for (int lane = 0; lane < c.lanes; ++lane) sums[row * s.bias_columns + c.relative[lane] + j] += lanes[lane];
}

}  // namespace natten_core::cpu::NATTEN_ISA
