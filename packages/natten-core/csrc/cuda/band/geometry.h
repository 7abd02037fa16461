// How a map is cut for the band kernels; host and device.
//
// A map (or residue map of a dilated one) is cut into strips of columns and bands of rows. A block marches down its
// strip two query rows at a time; each of its warps owns a column tile of 8 queries, so that a warp's 16 queries are
// 2 rows x 8 columns. Their windows lie in kernel_y + 1 key rows x kColumns key columns.
#pragma once

#include <cstdint>

#include "cuda/device/launch.h"
#include "natten_core/neighborhood.h"

namespace natten_core::cuda::band {

constexpr int kTileX = 8;     // query columns of a warp
constexpr int kTileY = 2;     // query rows of a warp
// Steps by which the forward's copies run ahead. Rows of tf32 are twice as long: with one step they leave shared memory
// for a strip of 56 columns on sm_80 too.
constexpr int ahead(int element_bytes) { return element_bytes == 2 ? 2 : 1; }
constexpr int kSignalStages = 4, kSignalBytes = kSignalStages * 16;  // see signals.h
constexpr int kMaxTiles = 7;  // column tiles of a block, whose eighth warp loads

// Whether kernels should take no more than 128 registers, so that a multiprocessor has room for two blocks: not where
// its shared memory does not hold two strips of kSharers tiles, of so many bytes. Of narrower ones, with up to four
// warps, registers hold two in any case.
constexpr int kSharers = 4;
constexpr bool share_registers(int limit, int strip_bytes) { return blocks_in(limit, strip_bytes) > 1; }

// One plain map: the residue map of a dilation group. Positions, not coordinates.
struct Map {
  int length_y, length_x;
  int kernel_y, kernel_x;
};

// First key row, or column, of the window of a query; of the last query's window for a position beyond the map.
NATTEN_INLINE int start_y(const Map& map, int y) { return window_begin(y, map.length_y, map.kernel_y, 1, false); }
NATTEN_INLINE int start_x(const Map& map, int x) { return window_begin(x, map.length_x, map.kernel_x, 1, false); }

// First of the `columns` key columns that a warp with the query columns x .. x + 7 reads.
NATTEN_INLINE int first_column(const Map& map, int x, int columns) {
  const int last = map.length_x - columns, wanted = x - map.kernel_x / 2;
  return wanted < last ? (wanted > 0 ? wanted : 0) : (last > 0 ? last : 0);
}

// Whether no window of the column tile at x is moved by a border, so that the tile looks like all others of the kind.
NATTEN_INLINE bool is_interior(const Map& map, int x, int columns) {
  return x >= map.kernel_x / 2 && x - map.kernel_x / 2 + columns <= map.length_x;
}

// The interior tiles of a strip share a table of biases, number 0; every other tile has its own, numbered from 1. How
// many of those come before the column tile `tile` of the strip at column x.
NATTEN_INLINE int border_tables(const Map& map, int x, int tile, int columns) {
  int count = 0;
  for (int t = 0; t < tile; ++t) count += !is_interior(map, x + t * kTileX, columns) && x + t * kTileX < map.length_x;
  return count;
}
NATTEN_INLINE int table_of(const Map& map, int x, int tile, int columns) {
  return is_interior(map, x + tile * kTileX, columns) ? 0 : 1 + border_tables(map, x, tile, columns);
}

}  // namespace natten_core::cuda::band
