// Biases of all relative positions in shared memory, for the accumulators that products of queries and keys start
// from: [1 + relative planes x relative rows][2 kernel_x] pairs, of neighbours along x, so that a lane reads those of
// its two keys at once wherever they lie. The first row is all -inf, for rows that do not see each other.
//
// Columns outside a query's window differ from query to query near borders; each lane knows its own and adds -inf.
#pragma once

#include "cuda/box/geometry.h"
#include "cuda/device/primitives.h"

namespace natten_core::cuda::box {

// The table at `table` and kBiasMargin pairs before and after it, which are read but not used. By the first `threads`
// threads of the block. `rpb` is the head's, or null.
DEV_FN void fill_biases(uint32_t table, const int* kernel, const float* rpb, float inverse_scale, int threads) {
  const int pairs = 2 * kernel[kX], width = pairs - 1, entries = bias_bytes(kernel) / 8;
  const int rows = (2 * kernel[kZ] - 1) * (2 * kernel[kY] - 1);
  for (int e = int(threadIdx.x); e < entries; e += threads) {
    const int at = e - kBiasMargin, row = at / pairs - 1, column = at % pairs - 1;  // pair (column, column + 1)
    dev::vec<float, 2> pair;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const bool there = rpb && row >= 0 && row < rows && column + i >= 0 && column + i < width;
      pair[i] = row < 0 ? -INFINITY : there ? dev::ldg(rpb + row * width + column + i) * inverse_scale : 0.f;
    }
    dev::sts(table + uint32_t(at * 8), pair);
  }
}

// What a lane reads for its two queries (keys), which are in one column, and their keys (queries) in columns
// 8 * tile + {0, 1} from `other` on.
template <int kTiles>
struct BiasColumns {
  uint32_t offset;        // in a row of the table, for the first tile
  float mask[kTiles][2];  // 0, or -inf for keys outside the window

  static DEV_FN BiasColumns of_query(const Map& map, int query, int other) {
    BiasColumns columns;
    const int begin = start(map, kX, query);
    columns.offset = uint32_t((other - query + map.kernel[kX]) * 8);
#pragma unroll
    for (int t = 0; t < kTiles; ++t)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int key = other + t * 8 + i;
        columns.mask[t][i] = key >= begin && key < begin + map.kernel[kX] ? 0.f : -INFINITY;
      }
    return columns;
  }
  DEV_FN void of_keys(float* bias, uint32_t row, int t) const {
    const auto pair = dev::lds<dev::vec<float, 2>>(row + offset + uint32_t(t * 64));
    bias[0] = pair[0] + mask[t][0], bias[1] = pair[1] + mask[t][1];
  }

  static DEV_FN BiasColumns of_key(const Map& map, int key, int other) {
    BiasColumns columns;
    columns.offset = uint32_t((key - other + map.kernel[kX] - 1) * 8);
#pragma unroll
    for (int t = 0; t < kTiles; ++t)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int query = other + t * 8 + i, begin = start(map, kX, query);
        const bool visible = query < map.length[kX] && key >= begin && key < begin + map.kernel[kX];
        columns.mask[t][i] = visible ? 0.f : -INFINITY;
      }
    return columns;
  }
  // The pair has the bias of the second query first.
  DEV_FN void of_queries(float* bias, uint32_t row, int t) const {
    const auto pair = dev::lds<dev::vec<float, 2>>(row + offset - uint32_t(t * 64));
    bias[0] = pair[1] + mask[t][0], bias[1] = pair[0] + mask[t][1];
  }
};

}  // namespace natten_core::cuda::box
