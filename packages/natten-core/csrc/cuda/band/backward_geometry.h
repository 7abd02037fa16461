// The key-major side of geometry.h: a warp's 16 keys are 2 rows x 8 columns, and the queries that see one of them lie
// in up to `columns` columns. Tiles may begin left of the map, so that no tile needs more columns than that; host and
// device.
#pragma once

#include "cuda/band/geometry.h"

namespace natten_core::cuda::band {

NATTEN_INLINE int seen_begin_x(const Map& map, int key) {
  return seen_begin<int>(key < 0 ? 0 : key, map.length_x, map.kernel_x, 1, false);
}
NATTEN_INLINE int seen_end_x(const Map& map, int key) {
  return seen_end<int>(key < map.length_x ? key : map.length_x - 1, map.length_x, map.kernel_x, 1, false);
}
// Query rows that see a key of the rows `key` and `key` + 1.
NATTEN_INLINE int seen_begin_y(const Map& map, int key) {
  return seen_begin<int>(key < map.length_y ? key : map.length_y - 1, map.length_y, map.kernel_y, 1, false);
}
NATTEN_INLINE int seen_end_y(const Map& map, int key) {
  return seen_end<int>(key + 1 < map.length_y ? key + 1 : map.length_y - 1, map.length_y, map.kernel_y, 1, false);
}

// First of the query columns of the key tile at x; even, so that pairs of columns are read at once.
NATTEN_INLINE int first_query_column(const Map& map, int x, int columns) {
  const int wanted = seen_begin_x(map, x), last = map.length_x + (map.length_x & 1) - columns;
  return (wanted < last ? wanted : last > 0 ? last : 0) & ~1;
}

// Whether no window of those queries is moved by a border; then the tile looks like all others of the kind.
NATTEN_INLINE bool is_interior_key(const Map& map, int x, int columns) {
  return x >= map.kernel_x &&
         (seen_begin_x(map, x) & ~1) + columns - 1 - map.kernel_x / 2 <= map.length_x - map.kernel_x;
}

// The two passes: where the other side's columns of a tile at x begin, and which tiles of a strip share a bias table.
struct ByQueries {
  NATTEN_INLINE int first(const Map& map, int x, int columns) { return first_column(map, x, columns); }
  NATTEN_INLINE bool interior(const Map& map, int x, int columns) { return is_interior(map, x, columns); }
};
struct ByKeys {
  NATTEN_INLINE int first(const Map& map, int x, int columns) { return first_query_column(map, x, columns); }
  NATTEN_INLINE bool interior(const Map& map, int x, int columns) { return is_interior_key(map, x, columns); }
};

// Of the first `tiles` tiles of the strip at column x, how many are in the map and near a border.
template <class By>
NATTEN_INLINE int border_tiles(const Map& map, int x, int tiles, int columns) {
  int count = 0;
  for (int t = 0; t < tiles; ++t) count += x + t * kTileX < map.length_x && !By::interior(map, x + t * kTileX, columns);
  return count;
}
// Each of those has a table of its own; the last table is that of all interior tiles.
template <class By>
NATTEN_INLINE int table_number(const Map& map, int x, int tile, int tiles, int columns) {
  return border_tiles<By>(map, x, By::interior(map, x + tile * kTileX, columns) ? tiles : tile, columns);
}

// Shared memory of the backward kernels, in bytes: a table of biases (backward_table.h) and the sums of its gradient of
// one warp (backward_bias.h), for n-tiles of 8 columns.
NATTEN_INLINE constexpr int table_rows(int kernel_y) { return 2 * kernel_y; }
NATTEN_INLINE constexpr int table_bytes(int kernel_y, int tiles) { return table_rows(kernel_y) * tiles * 32 * 8; }
constexpr int kScratchColumns = 24;  // of a query column: 4 of them fill the banks
constexpr int kScratchNext = 8 * kScratchColumns + 16;
constexpr int kScratch = kScratchNext + 8 * kScratchColumns;
NATTEN_INLINE int sums_bytes(int kernel_y, int kernel_x) {
  return (kScratch + ((2 * kernel_y - 1) * (2 * kernel_x - 1) + 3) / 4 * 4) * 4;
}

// Warps of a multiprocessor that the registers of the backward kernels allow, for rows of so many 16-bit elements.
constexpr int backward_warps(int halves, int tiles) { return halves > 32 ? 8 : tiles == 2 ? 16 : 12; }

// Likewise of the query-major pass for 7 rows, whose ring has 10 slots: see share_registers.
constexpr int fixed_query_warps(int halves, int limit) {
  const int columns = (kSharers - 1) * kTileX + 16, strip = 10 * columns * halves * 4 + table_bytes(7, 2);
  return halves <= 32 && share_registers(limit, strip) ? 16 : 8;
}

// Where the key tiles must begin for none to need more than `columns` query columns: 0 to -7; 1 if that is impossible.
inline int key_origin(const Map& map, int columns) {
  for (int origin = 0; origin > -kTileX; --origin) {
    bool fits = true;
    for (int x = origin; x < map.length_x && fits; x += kTileX) {
      const int far = map.length_x - 64;
      if (x > 64 && x < far) x += (far - x) / kTileX * kTileX;  // those between are alike
      fits = seen_end_x(map, x + kTileX - 1) - (seen_begin_x(map, x) & ~1) <= columns;
    }
    if (fits) return origin;
  }
  return 1;
}

}  // namespace natten_core::cuda::band
