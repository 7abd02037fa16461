// Biases of all relative positions in shared memory, for the accumulators that products of queries and keys start
// from: [1 + relative planes x relative rows][2 kernel_x] pairs, of neighbours along x, so that a lane reads those of
// its two keys at once wherever they lie. The first row is all -inf, for rows that do not see each other.
//
// Columns outside a query's window differ from query to query near borders; each lane knows its own and adds -inf.
#pragma once

#include "cuda/box/geometry.h"
#include "cuda/device/primitives.h"

namespace natten_core::cuda::box {

// By the first `threads` threads of the block. `rpb` is the head's, or null.
DEV_FN void fill_biases(uint32_t table, const int* kernel, const float* rpb, float inverse_scale, int threads) {
  const int pairs = 2 * kernel[kX], width = pairs - 1, entries = bias_bytes(kernel) / 8;
  for (int e = int(threadIdx.x); e < entries; e += threads) {
    const int row = e / pairs - 1, column = e % pairs - 1;  // pair (column, column + 1)
    dev::vec<float, 2> pair;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const bool there = rpb && row >= 0 && column + i >= 0 && column + i < width;
      pair[i] = row < 0 ? -INFINITY : there ? dev::ldg(rpb + row * width + column + i) * inverse_scale : 0.f;
    }
    dev::sts(table + uint32_t(e * 8), pair);
  }
}

// What a lane reads for its two queries (keys), which are in one column, and their keys (queries) in columns
// 8 * tile + {0, 1} from `other` on.
template <int kTiles>
struct BiasColumns {
  uint32_t offset[kTiles];  // in a row of the table
  float mask[kTiles][2];    // 0, or -inf for keys outside the window

  DEV_FN static BiasColumns of_query(const Map& map, int query, int other) {
    BiasColumns columns;
    const int begin = start(map, kX, query), width = 2 * map.kernel[kX] - 1;
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      const int key = other + t * 8, pair = key - query + map.kernel[kX];
      columns.offset[t] = uint32_t(max_of(0, min_of(pair, width)) * 8);
#pragma unroll
      for (int i = 0; i < 2; ++i)
        columns.mask[t][i] = key + i >= begin && key + i < begin + map.kernel[kX] ? 0.f : -INFINITY;
    }
    return columns;
  }

  // The pair has the bias of the second query first.
  DEV_FN static BiasColumns of_key(const Map& map, int key, int other) {
    BiasColumns columns;
    const int width = 2 * map.kernel[kX] - 1;
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      const int query = other + t * 8, pair = key - query + map.kernel[kX] - 1;
      columns.offset[t] = uint32_t(max_of(0, min_of(pair, width)) * 8);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int begin = start(map, kX, query + i);
        const bool visible = query + i < map.length[kX] && key >= begin && key < begin + map.kernel[kX];
        columns.mask[t][i] = visible ? 0.f : -INFINITY;
      }
    }
    return columns;
  }
};

}  // namespace natten_core::cuda::box
