// The second pass of the backward: grad_key and grad_value, and the additional keys' and values' share of every chunk
// of queries, which reduce.cuh sums.
#pragma once

#include <cmath>

#include "cuda/simt/additional.h"
#include "cuda/simt/bias.h"

namespace natten_core::cuda::simt {

// A tile of keys and values, and what their gradients have come to.
template <class V>
struct KeyTile {
  using T = typename V::Element;
  using A = typename V::Sum;
  static constexpr int kTokens = V::kTokens;
  Tile<V> key, value;
  A grad_key[kTokens][kElements], grad_value[kTokens][kElements];

  DEV_FN KeyTile(const Tile<V>& key_, const Tile<V>& value_) : key(key_), value(value_) {
    SIMT_UNROLL
    for (int i = 0; i < kTokens; ++i) {
      SIMT_UNROLL
      for (int e = 0; e < kElements; ++e) grad_key[i][e] = grad_value[i][e] = 0;
    }
  }

  // What one query adds; `sums`: its lse and delta.
  DEV_FN void add(const T* query, const T* grad_output, const dev::vec<A, 2>* sums, A scale, const A (&bias)[kTokens],
                  bool inside, const bool (&seen)[kTokens], const Lanes& lanes, int base) {
    dev::vec<A, 2> sum{};
    if (inside) sum = dev::ldg(sums);
    A both[2 * kTokens], dots[kTokens], query_row[kElements], grad_row[kElements];
    key.dot(dots, query_row, query, inside, lanes, base);
    SIMT_UNROLL
    for (int i = 0; i < kTokens; ++i) both[i] = dots[i];
    value.dot(dots, grad_row, grad_output, inside, lanes, base);
    SIMT_UNROLL
    for (int i = 0; i < kTokens; ++i) both[kTokens + i] = dots[i];
    sum_lanes(both, lanes);
    SIMT_UNROLL
    for (int i = 0; i < kTokens; ++i) {
      const A weight = seen[i] ? exp_of(dev::fma(both[i], scale, bias[i]) - sum[0]) : A(0);
      const A slope = seen[i] ? weight * (both[kTokens + i] - sum[1]) : A(0);
      SIMT_UNROLL
      for (int e = 0; e < kElements; ++e) {
        grad_key[i][e] = dev::fma(slope, query_row[e], grad_key[i][e]);
        grad_value[i][e] = dev::fma(weight, grad_row[e], grad_value[i][e]);
      }
    }
  }
};

template <class V>
DEV_KERNEL(kThreads)
backward_key_kernel(const BackwardParams params) {
  using T = typename V::Element;
  using A = typename V::Sum;
  using Pair = dev::vec<A, 2>;
  constexpr int kTokens = V::kTokens;
  const Shape& shape = params.shape;
  const Lanes lanes(params.tiling.lanes);
  const int base = V::kWide ? static_cast<int>(blockIdx.z) * kElements * lanes.count : 0;
  const A scale = scale_of<A>(shape);
  const TableShape table_shape(shape);

  const Place place = locate<kTokens>(shape, params.tiling, static_cast<int>(blockIdx.x), lanes);
  auto reach = Reach<kTokens>::template of<true>(shape, place);
  KeyTile<V> tile(
      {row_of<const T>(params.key, place, place.head), params.key.step[kX], shape.head_dim, place.count, lanes},
      {row_of<const T>(params.value, place, place.head), params.value.step[kX], shape.head_dim_v, place.count, lanes});

  const int ratio = shape.heads / shape.heads_kv;
  SIMT_NO_UNROLL
  for (int head = place.head * ratio; head < (place.head + 1) * ratio; ++head) {
    const A* table = static_cast<const A*>(params.rpb);
    if (table != nullptr) table += static_cast<int64_t>(head) * table_shape.entries();
    BiasRow<A, kTokens, -1> bias;
    const T* const queries = origin<const T>(params.query, place, head);
    const T* const grads = origin<const T>(params.grad_output, place, head);
    const Pair* const all_sums = origin<const Pair>(params.sums, place, head);
    const T *query = nullptr, *grad = nullptr;
    const Pair* sums = nullptr;
    walk(
        reach, 0,
        [&](int z, int y, bool inside) {
          const int x = reach.begin[kX];
          query = queries + ahead(params.query, z, y, x), grad = grads + ahead(params.grad_output, z, y, x);
          sums = all_sums + ahead(params.sums, z, y, x);
          const int row = table_shape.row(place.position[kZ] - z, place.position[kY] - y);
          bias.start(table != nullptr && inside ? table + row : nullptr, table_shape.size[kX],
                     place.position[kX] - x + table_shape.kernel[kX] - 1);
        },
        [] {},
        [&](int x, bool inside) {
          bias.advance();
          bool seen[kTokens];
          reach.see(seen, x, inside);
          tile.add(query, grad, sums, scale, bias.at, inside, seen, lanes, base);
          query += params.query.step[kX], grad += params.grad_output.step[kX], sums += params.sums.step[kX];
        },
        [] {});
  }

  T* out = row_of<T>(params.grad_key, place, place.head);
  T* out_v = row_of<T>(params.grad_value, place, place.head);
  SIMT_UNROLL
  for (int i = 0; i < kTokens; ++i) {
    if (i >= place.count) continue;
    store_row<V>(out + i * params.grad_key.step[kX], tile.grad_key[i], scale, lanes, base, shape.head_dim);
    store_row<V>(out_v + i * params.grad_value.step[kX], tile.grad_value[i], A(1), lanes, base, shape.head_dim_v);
  }
}

template <class V>
DEV_KERNEL(kThreads)
backward_additional_kernel(const BackwardParams params) {
  using T = typename V::Element;
  using A = typename V::Sum;
  using Pair = dev::vec<A, 2>;
  constexpr int kTokens = V::kTokens;
  const Shape& shape = params.shape;
  const Lanes lanes(params.tiling.lanes);
  const int dim = shape.head_dim, dim_v = shape.head_dim_v;
  const int base = V::kWide ? static_cast<int>(blockIdx.z) * kElements * lanes.count : 0;
  const A scale = scale_of<A>(shape);
  const AdditionalUnit unit(shape, params.additional_chunks, kTokens, lanes);

  KeyTile<V> tile(
      {unit.key<const T>(params.additional_key), params.additional_key.axis[kX], dim, unit.count, lanes},
      {unit.key<const T>(params.additional_value), params.additional_value.axis[kX], dim_v, unit.count, lanes});
  bool seen[kTokens];
  A bias[kTokens];
  SIMT_UNROLL
  for (int i = 0; i < kTokens; ++i) seen[i] = i < unit.count, bias[i] = 0;

  SIMT_NO_UNROLL
  for (int token = unit.token_begin; token < unit.token_end; ++token) {
    const T* query = unit.row<const T>(params.query, shape, token);
    const T* grad = unit.row<const T>(params.grad_output, shape, token);
    const Pair* sums = unit.row<const Pair>(params.sums, shape, token);
    SIMT_NO_UNROLL
    for (int head = 0; head < shape.heads / shape.heads_kv; ++head) {
      tile.add(query, grad, sums, scale, bias, unit.count > 0, seen, lanes, base);
      query += params.query.head, grad += params.grad_output.head, sums += params.sums.head;
    }
  }

  A* out = static_cast<A*>(params.additional_partial) + unit.partial(shape, dim + dim_v);
  SIMT_UNROLL
  for (int i = 0; i < kTokens; ++i) {
    if (i >= unit.count) continue;
    store_sums<V>(out, tile.grad_key[i], scale, lanes, base, dim);
    store_sums<V>(out + dim, tile.grad_value[i], A(1), lanes, base, dim_v);
    out += static_cast<int64_t>(shape.heads_kv) * (dim + dim_v);
  }
}

}  // namespace natten_core::cuda::simt
