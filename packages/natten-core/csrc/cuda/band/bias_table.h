// Biases in the order of accumulators, with -inf for the keys outside a query's columns: what a product of queries and
// keys starts from, so that bias and mask cost no instruction.
//
// A table is [2 * kRows + 1 relative rows][n-tiles of a key row][32 lanes][2] floats; the relative row of key row ky
// and query row y is ky - y + kernel_y - 1, kept from -1 on, and -inf where no query has it: row 0 of the table always
// is. Lane l has query column l / 4 and key columns 8 * tile + 2 * (l % 4) + {0, 1}.
#pragma once

#include "cuda/band/geometry.h"
#include "cuda/device/primitives.h"

namespace natten_core::cuda::band {

template <int kRows, int kTiles>
struct BiasTable {
  static constexpr int kRelativeRows = 2 * kRows + 1;
  static constexpr int kRowBytes = kTiles * 32 * 8;

  static constexpr int kBytes = kRelativeRows * kRowBytes;

  // Fills the table of the column tile at query column x, whose keys begin at `key_x`. All threads of the block.
  static DEV_FN void fill(uint32_t table, const Map& map, int x, int key_x, const float* rpb, float inverse_scale) {
    const int width = 2 * map.kernel_x - 1, entries = kRelativeRows * kTiles * 32;
    for (int e = threadIdx.x; e < entries; e += blockDim.x) {
      const int lane = e & 31, tile = e / 32 % kTiles, row = e / 32 / kTiles - 1;
      const int query = int(min_of(x + lane / 4, map.length_x - 1)), begin = start_x(map, query);
      dev::vec<float, 2> pair;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int key = key_x + tile * 8 + (lane & 3) * 2 + i;
        float bias = -INFINITY;
        if (key >= begin && key < begin + map.kernel_x && row >= 0 && row < 2 * map.kernel_y - 1)
          bias = rpb ? dev::ldg(rpb + row * width + key - query + map.kernel_x - 1) * inverse_scale : 0.f;
        pair[i] = bias;
      }
      dev::sts(table + uint32_t(e * 8), pair);
    }
  }
};

}  // namespace natten_core::cuda::band
