// How a map is cut for the box kernels; host and device.
//
// A warp has 16 queries of one plane: 2 rows of 8 columns, or, where maps have one row, 16 columns of it. A block has a
// box of up to kMaxTiles such tiles. All its queries see the same kernel_z planes of keys; a stage of shared memory
// holds what the block sees of one of them.
#pragma once

#include <cstdint>

#include "natten_core/neighborhood.h"
#include "natten_core/problem.h"

namespace natten_core::cuda::box {

constexpr int kMaxTiles = 7;  // of a block, a warp each; one more warp loads
constexpr int kStages = 2;  // planes of keys in shared memory
constexpr int kMostKernel = 13;  // on any axis

// A residue map: positions, not coordinates.
struct Map {
  int length[kRank], kernel[kRank];
};

// First key that the query at `position` sees; of the last query's window for a position beyond the map.
NATTEN_INLINE int start(const Map& map, int axis, int position) {
  return window_begin(position, map.length[axis], map.kernel[axis], 1, false);
}

// First of the `columns` key columns that a tile with queries from column x on reads.
NATTEN_INLINE int first_column(const Map& map, int x, int columns) {
  return int(max_of(0, min_of(x - map.kernel[kX] / 2, map.length[kX] - columns)));
}

// The two tiles, and how many key columns (n-tiles of 8) their windows lie in.
template <bool kLine_, int kTiles_>
struct Shape {
  static constexpr bool kLine = kLine_;
  static constexpr int kTiles = kTiles_, kColumns = kTiles * 8;
  static constexpr int kTileY = kLine ? 1 : 2, kTileX = kLine ? 16 : 8;
  static constexpr int kAtOnce = kLine ? 1 : 2;  // key rows; products over keys take pairs of n-tiles
  static constexpr int kMostKernelX = kColumns - kTileX + 1;
};
using Square = Shape<false, 2>;
using WideSquare = Shape<false, 3>;
using Line = Shape<true, 4>;
static_assert(Line::kMostKernelX >= kMostKernel && WideSquare::kMostKernelX >= kMostKernel, "all kernels");

// Key rows that a tile takes, in goes of kAtOnce.
template <class S>
NATTEN_INLINE int key_rows(int kernel_y) {
  return (kernel_y + S::kTileY - 1 + S::kAtOnce - 1) / S::kAtOnce * S::kAtOnce;
}

// Shared memory of the biases, see bias.h.
NATTEN_INLINE int bias_row_bytes(int kernel_x) { return 2 * kernel_x * 8; }
NATTEN_INLINE int bias_bytes(const int* kernel) {
  return ((2 * kernel[kZ] - 1) * (2 * kernel[kY] - 1) + 1) * bias_row_bytes(kernel[kX]);
}

}  // namespace natten_core::cuda::box
