// output = softmax(scale * query . key + bias) . value, over the window and the additional keys.
#pragma once

#include <cmath>
#include <limits>

#include "cuda/simt/bias.h"

namespace natten_core::cuda::simt {

// Exponentials are taken relative to a score that may be this much below the largest one.
constexpr float kSlack = 6.0f;
template <class A>
constexpr A kLowest = std::numeric_limits<A>::lowest();

template <class V>
struct Softmax {
  using A = typename V::Sum;
  static constexpr int kTokens = V::kTokens;
  A top[kTokens], sum[kTokens], out[kTokens][kElements];

  DEV_FN Softmax() {
    SIMT_UNROLL
    for (int i = 0; i < kTokens; ++i) {
      top[i] = kLowest<A>, sum[i] = 0;
      SIMT_UNROLL
      for (int e = 0; e < kElements; ++e) out[i][e] = 0;
    }
  }

  // A score of -inf adds nothing.
  DEV_FN void add(const A (&score)[kTokens], const A (&value)[kElements]) {
    A above[kTokens], most = 0;
    SIMT_UNROLL
    for (int i = 0; i < kTokens; ++i) above[i] = score[i] - top[i], most = dev::max(most, above[i]);
    if (most > A(kSlack)) rise(score, above);
    SIMT_UNROLL
    for (int i = 0; i < kTokens; ++i) {
      const A weight = exp_of(above[i]);
      sum[i] += weight;
      SIMT_UNROLL
      for (int e = 0; e < kElements; ++e) out[i][e] = dev::fma(weight, value[e], out[i][e]);
    }
  }

  DEV_FN void rise(const A (&score)[kTokens], A (&above)[kTokens]) {
    SIMT_UNROLL
    for (int i = 0; i < kTokens; ++i) {
      if (!(above[i] > A(kSlack))) continue;
      const A shrink = exp_of(top[i] - score[i]);
      top[i] = score[i], above[i] = score[i] - top[i], sum[i] *= shrink;
      SIMT_UNROLL
      for (int e = 0; e < kElements; ++e) out[i][e] *= shrink;
    }
  }

  DEV_FN A lse(int i) const { return top[i] + log_of(sum[i]); }
};

template <class V>
DEV_KERNEL(kThreads)
forward_kernel(const ForwardParams params) {
  using T = typename V::Element;
  using A = typename V::Sum;
  constexpr int kTokens = V::kTokens;
  const Shape& shape = params.shape;
  const Lanes lanes(params.tiling.lanes);
  const int base = V::kWide ? static_cast<int>(blockIdx.z) * kElements * lanes.count : 0;
  const A scale = scale_of<A>(shape);
  const TableShape table_shape(shape);

  const Place place = locate<kTokens>(shape, params.tiling, static_cast<int>(blockIdx.x), lanes);
  auto reach = Reach<kTokens>::template of<false>(shape, place);
  const int kv_head = place.head / (shape.heads / shape.heads_kv);
  const Tile<V> query(row_of<const T>(params.query, place, place.head), params.query.step[kX], shape.head_dim,
                      place.count, lanes);
  const A* table = static_cast<const A*>(params.rpb);
  if (table != nullptr) table += static_cast<int64_t>(place.head) * table_shape.entries();

  Softmax<V> softmax;
  BiasRow<A, kTokens, 1> bias;
  const T* const keys = origin<const T>(params.key, place, kv_head);
  const T* const values = origin<const T>(params.value, place, kv_head);
  const T *key = nullptr, *value = nullptr;
  int64_t key_step = params.key.step[kX], value_step = params.value.step[kX];
  walk(
      reach, shape.additional,
      [&](int z, int y, bool inside) {
        const int x = reach.begin[kX];
        key = keys + ahead(params.key, z, y, x), value = values + ahead(params.value, z, y, x);
        const int row = table_shape.row(z - place.position[kZ], y - place.position[kY]);
        bias.start(table != nullptr && inside ? table + row : nullptr, table_shape.size[kX],
                   x - place.position[kX] + table_shape.kernel[kX] - 1);
      },
      [&] {
        key = additional<const T>(params.additional_key, place, kv_head);
        value = additional<const T>(params.additional_value, place, kv_head);
        key_step = params.additional_key.axis[kX], value_step = params.additional_value.axis[kX];
        bias.start(nullptr, 0, 0);
      },
      [&](int x, bool inside) {
        A scores[kTokens], key_row[kElements], value_row[kElements];
        bool seen[kTokens];
        bias.advance();
        load_row<V>(value_row, value, lanes, base, shape.head_dim_v, inside);
        query.dot(scores, key_row, key, inside, lanes, base);
        reach.see(seen, x, inside);
        sum_lanes(scores, lanes);
        SIMT_UNROLL
        for (int i = 0; i < kTokens; ++i) scores[i] = seen[i] ? dev::fma(scores[i], scale, bias.at[i]) : A(-INFINITY);
        softmax.add(scores, value_row);
        key += key_step, value += value_step;
      },
      [] {});

  T* output = row_of<T>(params.output, place, place.head);
  A* lse = row_of<A>(params.lse, place, place.head);
  SIMT_UNROLL
  for (int i = 0; i < kTokens; ++i) {
    if (i >= place.count) continue;
    store_row<V>(output + i * params.output.step[kX], softmax.out[i], A(1) / softmax.sum[i], lanes, base,
                 shape.head_dim_v);
    if (lanes.index == 0 && base == 0) dev::stg(lse + i * params.lse.step[kX], softmax.lse(i));
  }
}

}  // namespace natten_core::cuda::simt
