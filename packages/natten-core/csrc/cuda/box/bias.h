// Biases of all relative positions in shared memory, for the accumulators that products of queries and keys start
// from: [1 + relative planes x relative rows][2 kernel_x] pairs, of neighbours along x, so that a lane reads those of
// its two keys at once wherever they lie. The first row is all -inf, for rows that do not see each other.
//
// Columns outside a query's window differ from query to query near borders; each lane knows its own and adds -inf.
#pragma once

#include "cuda/box/geometry.h"
#include "cuda/device/primitives.h"

namespace natten_core::cuda::box {

// All threads of the block. `rpb` is the head's, or null.
DEV_FN void fill_biases(uint32_t table, const int* kernel, const float* rpb, float inverse_scale) {
  const int pairs = 2 * kernel[kX], width = pairs - 1, entries = bias_bytes(kernel) / 8;
  for (int e = int(threadIdx.x); e < entries; e += int(blockDim.x)) {
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

// What a lane reads for the queries of one half of its tile, all in one column.
template <int kTiles>
struct BiasColumns {
  uint32_t offset[kTiles];  // in a row of the table
  float mask[kTiles][2];    // 0, or -inf for keys outside the window

  // Of the query at `query`, with keys from column `key` on: 8 * tile + {0, 1}.
  DEV_FN BiasColumns(const Map& map, int query, int key) {
    const int begin = start(map, kX, query), width = 2 * map.kernel[kX] - 1;
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      const int at = key + t * 8, pair = at - query + map.kernel[kX];
      offset[t] = uint32_t(max_of(0, min_of(pair, width)) * 8);
#pragma unroll
      for (int i = 0; i < 2; ++i) mask[t][i] = at + i >= begin && at + i < begin + map.kernel[kX] ? 0.f : -INFINITY;
    }
  }
};

}  // namespace natten_core::cuda::box
