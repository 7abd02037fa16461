// Biases in the order of accumulators, as in bias_table.h, for both passes of the backward: [1 + relative rows]
// [n-tiles][32 lanes][2] floats. The first row is all -inf, for pairs of rows that do not see each other; then come
// the relative rows 0 to 2 kernel_y - 2, of zeros if there is no bias.
#pragma once

#include "cuda/band/backward_geometry.h"
#include "cuda/device/primitives.h"

namespace natten_core::cuda::band {

template <int kTiles>
struct BackwardTable {
  static constexpr int kRowBytes = kTiles * 32 * 8;

  uint32_t hidden;  // the first row, at the lane's entry

  DEV_FN void set(uint32_t table, int lane) { hidden = table + uint32_t(lane * 8); }
  DEV_FN uint32_t at(int relative_row) const { return hidden + uint32_t((relative_row + 1) * kRowBytes); }

  // Lane l has the query (or, if kByKeys, the key) column row_x + l / 4, and the key (query) columns
  // column_x + 8 * tile + 2 * (l % 4) + {0, 1}. The first `threads` threads of the block take part.
  template <bool kByKeys>
  static DEV_FN void fill(uint32_t table, const Map& map, int row_x, int column_x, const float* rpb,
                          float inverse_scale, int threads) {
    const int entries = table_rows(map.kernel_y) * kTiles * 32;
    for (int e = int(threadIdx.x); e < entries; e += threads) {
      const int lane = e & 31, tile = e / 32 % kTiles, row = e / 32 / kTiles - 1;
      dev::vec<float, 2> pair;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int a = row_x + lane / 4, b = column_x + tile * 8 + (lane & 3) * 2 + i;
        const int query = kByKeys ? b : a, key = kByKeys ? a : b, begin = start_x(map, query);
        const bool visible = row >= 0 && query < map.length_x && key >= begin && key < begin + map.kernel_x;
        pair[i] = !visible ? -INFINITY
                  : rpb ? dev::ldg(rpb + row * (2 * map.kernel_x - 1) + key - query + map.kernel_x - 1) * inverse_scale
                        : 0.f;
      }
      dev::sts(table + uint32_t(e * 8), pair);
    }
  }

  // Fills the tables of a strip of `tiles` tiles, at column x of the map.
  template <class By>
  static DEV_FN void fill_all(uint32_t tables, const Map& map, int x, int tiles, const float* rpb, float inverse_scale,
                              int threads) {
    const int columns = kTiles * 8, one = table_bytes(map.kernel_y, kTiles);
    bool have_interior = false;
    for (int t = 0, at = x; t < tiles && at < map.length_x; ++t, at += kTileX) {
      const bool interior = By::interior(map, at, columns);
      if (interior && have_interior) continue;
      have_interior |= interior;
      fill<std::is_same<By, ByKeys>::value>(tables + uint32_t(table_number<By>(map, x, t, tiles, columns) * one), map,
                                            at, By::first(map, at, columns), rpb, inverse_scale, threads);
    }
  }
};

}  // namespace natten_core::cuda::band
