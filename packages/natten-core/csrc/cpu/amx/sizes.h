// How tokens and weights lie for tiles. A tile of 16 rows of 32 bf16 is a left factor as it lies in memory; a right
// factor has its rows two by two, interleaved.
//
//   scores   [16 key columns][32 dims] . [32 dims, in pairs][16 queries] = [16 key columns][16 queries]
//   sums     [16 queries][32 key columns] . [32 key columns, in pairs][16 dims] = [16 queries][16 dims]
//
// So keys are packed as they are, queries in planes of pairs, and the tokens that are summed by pairs of columns.
#pragma once

#include "../fused/sizes.h"

#if defined(NATTEN_AMX_EMULATED)
#include "emulated_tiles.h"
#else
#include "tiles.h"
#endif

namespace natten_core::cpu::NATTEN_ISA {

#if defined(NATTEN_AMX_EMULATED)
using Tiles = EmulatedTiles;
#else
using Tiles = TileRegisters;
#endif

constexpr int kTileLanes = 16;  // queries, columns of floats
constexpr int kTileDepth = 32;  // bf16 of a row
constexpr int64_t kRowBytes = kTileBytes;
static_assert(kLanes<float> == kTileLanes);

// Tiles 5 and 7 have `tail_rows` rows, the others all 16: those that scores of a block's last columns need.
NATTEN_KERNEL TileShapes tile_shapes(int tail_rows) {
  TileShapes shapes;
  for (int t = 0; t < kTiles; ++t) {
    shapes.row_bytes[t] = kTileBytes;
    shapes.rows[t] = static_cast<uint8_t>(t == 5 || t == 7 ? tail_rows : kTileRows);
  }
  return shapes;
}

// Key columns of a block in the interior of a map beyond the first 16, in tiles of which one may be partly filled.
NATTEN_KERNEL int tail_rows(const Problem& p) {
  const int rest = static_cast<int>(p.kernel[kX] - 1) % kTileRows;
  return rest > 0 ? rest : kTileRows;
}

// Of tokens of one head_dim.
struct TokenTiles {
  int head_dim, padded_dim;  // padded_dim is a multiple of 16
  int depth;                 // a multiple of 32
  // Of one key row: [column][depth], with room for a tile's rows behind the last column; and [pair of columns]
  // [padded_dim], from an even column on, with room for those of a tile behind the last.
  int64_t row, pairs;

  TokenTiles(int64_t dim, int64_t columns)
      : head_dim(static_cast<int>(dim)),
        padded_dim(static_cast<int>(round_up(dim, kTileLanes))),
        depth(static_cast<int>(round_up(dim, kTileDepth))),
        row(odd_lines<BFloat16>((columns + kTileRows) * depth)),
        pairs(odd_lines<Pair>((columns + 2 + kTileDepth) / 2 * padded_dim)) {}

  // Of a block: the planes of a query row, and of all.
  int64_t query_planes() const { return static_cast<int64_t>(depth) / 2 * kTileLanes; }
  int64_t block_planes() const { return kScoreRows * query_planes(); }
};

// Columns of a query's weights at one key row, which begin up to 16 columns after an even one and fill whole eights.
NATTEN_KERNEL int weight_columns(int slots) {
  return static_cast<int>(round_up(kTileLanes + round_up(slots, 8), kTileDepth));
}

}  // namespace natten_core::cpu::NATTEN_ISA
