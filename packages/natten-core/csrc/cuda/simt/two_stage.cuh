// What the operators of the two-stage form and their gradients are made of. "Query" and "key" are the two sides of the
// window here; the rows that belong to them may be values and gradients as well.
#pragma once

#include <cmath>

#include "cuda/simt/additional.h"
#include "cuda/simt/group_tables.h"

namespace natten_core::cuda::simt {

struct PairParams {
  Shape shape;  // head_dim: of all rows
  Tiling tiling;
  View query, key, additional_key;
  View weights;                        // [B, Z, Y, X, heads, slots], of the rows' type
  const void* rpb = nullptr;           // dots: added
  float fill = 0;                      // dots: of the slots for which a window is too short
  void* rpb_partial = nullptr;         // combine: sums of weights
  bool rpb_in_shared = false;
  void* additional_partial = nullptr;  // spread_additional: [chunks, B, N, heads_kv, head_dim]
  int additional_chunks = 0;
};

DEV_FN int window_slots(const Shape& shape) { return shape.kernel[kZ] * shape.kernel[kY] * shape.kernel[kX]; }

// Of the first key in the window of a query's row (z, y) of keys.
template <int Tokens>
DEV_FN int row_slot(const Shape& shape, const Reach<Tokens>& reach, int z, int y) {
  return ((z - reach.begin[kZ]) * shape.kernel[kY] + y - reach.begin[kY]) * shape.kernel[kX];
}

// weights = scale * query . key + bias
template <class V>
DEV_KERNEL(kThreads)
dots_kernel(const PairParams params) {
  using T = typename V::Element;
  using A = typename V::Sum;
  constexpr int kTokens = V::kTokens;
  const Shape& shape = params.shape;
  const Lanes lanes(params.tiling.lanes);
  const A scale = scale_of<A>(shape);
  const TableShape table_shape(shape);
  const Place place = locate<kTokens>(shape, params.tiling, static_cast<int>(blockIdx.x), lanes);
  auto reach = Reach<kTokens>::template of<false>(shape, place);
  const int kv_head = place.head / (shape.heads / shape.heads_kv);
  const Tile<V> query(row_of<const T>(params.query, place, place.head), params.query.step[kX], shape.head_dim,
                      place.count, lanes);
  const A* table = static_cast<const A*>(params.rpb);
  if (table != nullptr) table += static_cast<int64_t>(place.head) * table_shape.entries();

  T* const weights = row_of<T>(params.weights, place, place.head);
  if (shape.causal[kZ] || shape.causal[kY] || shape.causal[kX]) {
    for (int i = 0; i < place.count; ++i)
      for (int slot = lanes.index; slot < window_slots(shape); slot += lanes.count)
        dev::stg(weights + i * params.weights.step[kX] + slot, narrow<T>(params.fill));
    dev::syncwarp();
  }

  BiasRow<A, kTokens, 1> bias;
  const T* const keys = origin<const T>(params.key, place, kv_head);
  const T* key = nullptr;
  int64_t key_step = params.key.step[kX];
  T* out = nullptr;
  walk(
      reach, shape.additional,
      [&](int z, int y, bool inside) {
        const int x = reach.begin[kX];
        key = keys + ahead(params.key, z, y, x);
        out = weights + row_slot(shape, reach, z, y);
        const int row = table_shape.row(z - place.position[kZ], y - place.position[kY]);
        bias.start(table != nullptr && inside ? table + row : nullptr, table_shape.size[kX],
                   x - place.position[kX] + table_shape.kernel[kX] - 1);
      },
      [&] {
        key = additional<const T>(params.additional_key, place, kv_head);
        key_step = params.additional_key.axis[kX];
        out = weights + window_slots(shape);
        bias.start(nullptr, 0, 0);
      },
      [&](int x, bool inside) {
        A dots[kTokens], row[kElements];
        bool seen[kTokens];
        bias.advance();
        query.dot(dots, row, key, inside, lanes, 0);
        reach.see(seen, x, inside);
        sum_lanes(dots, lanes);
        SIMT_UNROLL
        for (int i = 0; i < kTokens; ++i)
          if (seen[i] && lanes.index == 0)
            dev::stg(out + i * params.weights.step[kX] + x - reach.x_begin[i],
                     narrow<T>(dev::fma(dots[i], scale, bias.at[i])));
        key += key_step;
      },
      [] {});
}

// query = scale * sum of weights * key over the window; the sums of weights by relative position.
template <class V>
DEV_KERNEL(kThreads)
combine_kernel(const PairParams params) {
  using T = typename V::Element;
  using A = typename V::Sum;
  constexpr int kTokens = V::kTokens;
  DEV_SMEM(shared);
  const Shape& shape = params.shape;
  const Lanes lanes(params.tiling.lanes);
  const A scale = scale_of<A>(shape);
  const int base = V::kWide ? static_cast<int>(blockIdx.z) * kElements * lanes.count : 0;
  const TableShape table_shape(shape);
  const int head = head_of(params.tiling, lanes), kv_head = head / (shape.heads / shape.heads_kv);
  const GroupTables<A> tables(params, shared, table_shape.entries(), head, lanes);

  SIMT_NO_UNROLL
  for (int block = static_cast<int>(blockIdx.x); block < params.tiling.blocks; block += static_cast<int>(gridDim.x)) {
    const Place place = locate<kTokens>(shape, params.tiling, block, lanes);
    auto reach = Reach<kTokens>::template of<false>(shape, place);
    const T* const weights = row_of<const T>(params.weights, place, head);
    const T* const keys = origin<const T>(params.key, place, kv_head);
    const T *key = nullptr, *weight = nullptr;
    int64_t key_step = params.key.step[kX];
    GradientRow<A, kTokens> gradient;
    A sum[kTokens][kElements];
    SIMT_UNROLL
    for (int i = 0; i < kTokens; ++i) {
      SIMT_UNROLL
      for (int e = 0; e < kElements; ++e) sum[i][e] = 0;
    }
    walk(
        reach, shape.additional,
        [&](int z, int y, bool inside) {
          const int x = reach.begin[kX];
          key = keys + ahead(params.key, z, y, x);
          weight = weights + row_slot(shape, reach, z, y);
          gradient.start(table_shape.row(z - place.position[kZ], y - place.position[kY]),
                         tables.any && inside && lanes.index == 0 ? table_shape.size[kX] : 0,
                         x - place.position[kX] + table_shape.kernel[kX] - 1);
        },
        [&] {
          key = additional<const T>(params.additional_key, place, kv_head);
          key_step = params.additional_key.axis[kX];
          weight = weights + window_slots(shape);
          gradient.start(0, 0, 0);
        },
        [&](int x, bool inside) {
          A row[kElements], w[kTokens];
          bool seen[kTokens];
          load_row<V>(row, key, lanes, base, shape.head_dim, inside);
          reach.see(seen, x, inside);
          SIMT_UNROLL
          for (int i = 0; i < kTokens; ++i) {
            w[i] = seen[i] ? wide(dev::ldg(weight + i * params.weights.step[kX] + x - reach.x_begin[i])) : A(0);
            SIMT_UNROLL
            for (int e = 0; e < kElements; ++e) sum[i][e] = dev::fma(w[i], row[e], sum[i][e]);
          }
          gradient.advance(tables.mine, w);
          key += key_step;
        },
        [&] { gradient.finish(tables.mine); });
    T* out = row_of<T>(params.query, place, head);
    SIMT_UNROLL
    for (int i = 0; i < kTokens; ++i)
      if (i < place.count) store_row<V>(out + i * params.query.step[kX], sum[i], scale, lanes, base, shape.head_dim);
  }
  tables.store(params, lanes);
}

// key = scale * sum of weights * query over the queries that see it.
template <class V>
DEV_KERNEL(kThreads)
spread_kernel(const PairParams params) {
  using T = typename V::Element;
  using A = typename V::Sum;
  constexpr int kTokens = V::kTokens;
  const Shape& shape = params.shape;
  const Lanes lanes(params.tiling.lanes);
  const A scale = scale_of<A>(shape);
  const int base = V::kWide ? static_cast<int>(blockIdx.z) * kElements * lanes.count : 0;
  const Place place = locate<kTokens>(shape, params.tiling, static_cast<int>(blockIdx.x), lanes);
  auto reach = Reach<kTokens>::template of<true>(shape, place);
  const auto begin = [&](int axis, int position) {
    return window_begin(position, place.length[axis], shape.kernel[axis], shape.stride[axis], shape.causal[axis]);
  };

  A sum[kTokens][kElements];
  SIMT_UNROLL
  for (int i = 0; i < kTokens; ++i) {
    SIMT_UNROLL
    for (int e = 0; e < kElements; ++e) sum[i][e] = 0;
  }
  const int ratio = shape.heads / shape.heads_kv;
  SIMT_NO_UNROLL
  for (int head = place.head * ratio; head < (place.head + 1) * ratio; ++head) {
    const T* const queries = origin<const T>(params.query, place, head);
    const T* const weights = origin<const T>(params.weights, place, head);
    const T *query = nullptr, *weight = nullptr;
    walk(
        reach, 0,
        [&](int z, int y, bool) {
          const int x = reach.begin[kX];
          query = queries + ahead(params.query, z, y, x);
          const int row = (place.position[kZ] - begin(kZ, z)) * shape.kernel[kY] + place.position[kY] - begin(kY, y);
          weight = weights + ahead(params.weights, z, y, x) + row * shape.kernel[kX];
        },
        [] {},
        [&](int x, bool inside) {
          A row[kElements];
          bool seen[kTokens];
          load_row<V>(row, query, lanes, base, shape.head_dim, inside);
          reach.see(seen, x, inside);
          const int slot = place.position[kX] - begin(kX, x);
          SIMT_UNROLL
          for (int i = 0; i < kTokens; ++i) {
            const A w = seen[i] ? wide(dev::ldg(weight + slot + i)) : A(0);
            SIMT_UNROLL
            for (int e = 0; e < kElements; ++e) sum[i][e] = dev::fma(w, row[e], sum[i][e]);
          }
          query += params.query.step[kX], weight += params.weights.step[kX];
        },
        [] {});
  }
  T* out = row_of<T>(params.key, place, place.head);
  SIMT_UNROLL
  for (int i = 0; i < kTokens; ++i)
    if (i < place.count) store_row<V>(out + i * params.key.step[kX], sum[i], scale, lanes, base, shape.head_dim);
}

// The same for the additional keys: what a chunk of the queries adds.
template <class V>
DEV_KERNEL(kThreads)
spread_additional_kernel(const PairParams params) {
  using T = typename V::Element;
  using A = typename V::Sum;
  constexpr int kTokens = V::kTokens;
  const Shape& shape = params.shape;
  const Lanes lanes(params.tiling.lanes);
  const A scale = scale_of<A>(shape);
  const int base = V::kWide ? static_cast<int>(blockIdx.z) * kElements * lanes.count : 0;
  const AdditionalUnit unit(shape, params.additional_chunks, kTokens, lanes);
  A sum[kTokens][kElements];
  SIMT_UNROLL
  for (int i = 0; i < kTokens; ++i) {
    SIMT_UNROLL
    for (int e = 0; e < kElements; ++e) sum[i][e] = 0;
  }
  const int ratio = shape.heads / shape.heads_kv, slot = window_slots(shape) + unit.first;
  SIMT_NO_UNROLL
  for (int token = unit.token_begin; token < unit.token_end; ++token) {
    const T* query = unit.row<const T>(params.query, shape, token);
    const T* weight = unit.row<const T>(params.weights, shape, token) + slot;
    SIMT_NO_UNROLL
    for (int head = 0; head < ratio; ++head) {
      A row[kElements];
      load_row<V>(row, query, lanes, base, shape.head_dim, unit.count > 0);
      SIMT_UNROLL
      for (int i = 0; i < kTokens; ++i) {
        const A w = i < unit.count ? wide(dev::ldg(weight + i)) : A(0);
        SIMT_UNROLL
        for (int e = 0; e < kElements; ++e) sum[i][e] = dev::fma(w, row[e], sum[i][e]);
      }
      query += params.query.head, weight += params.weights.head;
    }
  }
  A* out = static_cast<A*>(params.additional_partial) + unit.partial(shape, shape.head_dim);
  SIMT_UNROLL
  for (int i = 0; i < kTokens; ++i)
    if (i < unit.count)
      store_sums<V>(out + static_cast<int64_t>(i) * shape.heads_kv * shape.head_dim, sum[i], scale, lanes, base,
                    shape.head_dim);
}

}  // namespace natten_core::cuda::simt
