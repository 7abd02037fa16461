// The first pass of the backward: delta, grad_query, and private tables of grad_rpb that reduce.cuh sums.
#pragma once

#include <cmath>

#include "cuda/simt/group_tables.h"

namespace natten_core::cuda::simt {

template <class V>
DEV_KERNEL(kThreads)
backward_query_kernel(const BackwardParams params) {
  using T = typename V::Element;
  using A = typename V::Sum;
  constexpr int kTokens = V::kTokens;
  DEV_SMEM(shared);
  const Shape& shape = params.shape;
  const Lanes lanes(params.tiling.lanes);
  const int base = V::kWide ? static_cast<int>(blockIdx.z) * kElements * lanes.count : 0;
  const A scale = scale_of<A>(shape);
  const TableShape table_shape(shape);
  const int head = head_of(params.tiling, lanes), kv_head = head / (shape.heads / shape.heads_kv);
  const A* table = static_cast<const A*>(params.rpb);
  if (table != nullptr) table += static_cast<int64_t>(head) * table_shape.entries();
  const GroupTables<A> tables(params, shared, table_shape.entries(), head, lanes);

  SIMT_NO_UNROLL
  for (int block = static_cast<int>(blockIdx.x); block < params.tiling.blocks; block += static_cast<int>(gridDim.x)) {
    const Place place = locate<kTokens>(shape, params.tiling, block, lanes);
    auto reach = Reach<kTokens>::template of<false>(shape, place);
    const Tile<V> query(row_of<const T>(params.query, place, head), params.query.step[kX], shape.head_dim, place.count,
                        lanes);
    const Tile<V> grad(row_of<const T>(params.grad_output, place, head), params.grad_output.step[kX], shape.head_dim_v,
                       place.count, lanes);

    A delta[kTokens], lse[kTokens], grad_query[kTokens][kElements];
    const T* output = row_of<const T>(params.output, place, head);
    SIMT_UNROLL
    for (int i = 0; i < kTokens; ++i) {
      delta[i] = grad.dot_one(i, output + i * params.output.step[kX], lanes);
      SIMT_UNROLL
      for (int e = 0; e < kElements; ++e) grad_query[i][e] = 0;
    }
    sum_lanes(delta, lanes);
    SIMT_UNROLL
    for (int i = 0; i < kTokens; ++i) {
      lse[i] = 0;
      if (i >= place.count) continue;
      lse[i] = dev::ldg(row_of<const A>(params.lse, place, head) + i * params.lse.step[kX]);
      if (params.grad_lse.data != nullptr)
        delta[i] -= dev::ldg(row_of<const A>(params.grad_lse, place, head) + i * params.grad_lse.step[kX]);
      if (lanes.index == 0 && base == 0)
        dev::stg(row_of<dev::vec<A, 2>>(params.sums, place, head) + i * params.sums.step[kX],
                 dev::vec<A, 2>{{lse[i], delta[i]}});
    }

    BiasRow<A, kTokens, 1> bias;
    GradientRow<A, kTokens> gradient;
    const T* const keys = origin<const T>(params.key, place, kv_head);
    const T* const values = origin<const T>(params.value, place, kv_head);
    const T *key = nullptr, *value = nullptr;
    int64_t key_step = params.key.step[kX], value_step = params.value.step[kX];
    walk(
        reach, shape.additional,
        [&](int z, int y, bool inside) {
          const int x = reach.begin[kX], first = x - place.position[kX] + table_shape.kernel[kX] - 1;
          key = keys + ahead(params.key, z, y, x), value = values + ahead(params.value, z, y, x);
          const int row = table_shape.row(z - place.position[kZ], y - place.position[kY]);
          bias.start(table != nullptr && inside ? table + row : nullptr, table_shape.size[kX], first);
          gradient.start(row, tables.any && inside && lanes.index == 0 ? table_shape.size[kX] : 0, first);
        },
        [&] {
          key = additional<const T>(params.additional_key, place, kv_head);
          value = additional<const T>(params.additional_value, place, kv_head);
          key_step = params.additional_key.axis[kX], value_step = params.additional_value.axis[kX];
          bias.start(nullptr, 0, 0);
          gradient.start(0, 0, 0);
        },
        [&](int x, bool inside) {
          A both[2 * kTokens], dots[kTokens], row[kElements], slope[kTokens];
          bool seen[kTokens];
          bias.advance();
          grad.dot(dots, row, value, inside, lanes, base);
          SIMT_UNROLL
          for (int i = 0; i < kTokens; ++i) both[kTokens + i] = dots[i];
          query.dot(dots, row, key, inside, lanes, base);
          SIMT_UNROLL
          for (int i = 0; i < kTokens; ++i) both[i] = dots[i];
          reach.see(seen, x, inside);
          sum_lanes(both, lanes);
          SIMT_UNROLL
          for (int i = 0; i < kTokens; ++i) {
            const A weight = exp_of(dev::fma(both[i], scale, bias.at[i]) - lse[i]);
            slope[i] = seen[i] ? weight * (both[kTokens + i] - delta[i]) : A(0);
            SIMT_UNROLL
            for (int e = 0; e < kElements; ++e) grad_query[i][e] = dev::fma(slope[i], row[e], grad_query[i][e]);
          }
          gradient.advance(tables.mine, slope);
          key += key_step, value += value_step;
        },
        [&] { gradient.finish(tables.mine); });

    T* out = row_of<T>(params.grad_query, place, head);
    SIMT_UNROLL
    for (int i = 0; i < kTokens; ++i)
      if (i < place.count)
        store_row<V>(out + i * params.grad_query.step[kX], grad_query[i], scale, lanes, base, shape.head_dim);
  }
  tables.store(params, lanes);
}

}  // namespace natten_core::cuda::simt
