// How a map is cut for the box kernels; host and device.
//
// A warp has a tile of 2 rows of 8 columns in one plane: of queries or, in the key-major pass of the backward, of keys.
// A block has a box of up to kMaxTiles such tiles, all related to the same planes of the other side; a stage of shared
// memory holds what the box needs of one of those.
#pragma once

#include <cstdint>

#include "cuda/band/backward_geometry.h"
#include "cuda/device/types.h"
#include "natten_core/neighborhood.h"
#include "natten_core/problem.h"

namespace natten_core::cuda::box {

using band::kTileX;
using band::kTileY;
constexpr int kMaxTiles = 7;  // of a block, a warp each; one more warp loads
constexpr int kMostStages = 2;  // planes in shared memory: one, where two do not fit
constexpr int kMostKernel = 13;  // on any axis

// A residue map: positions, not coordinates.
struct Map {
  int length[kRank], kernel[kRank];
};

// One of its planes, as the band kernels know maps.
NATTEN_INLINE band::Map flat(const Map& map) {
  return {map.length[kY], map.length[kX], map.kernel[kY], map.kernel[kX]};
}

// First key that the query at `position` sees; of the last query's window for a position beyond the map.
NATTEN_INLINE int start(const Map& map, int axis, int position) {
  return window_begin(position, map.length[axis], map.kernel[axis], 1, false);
}

// The queries [first, end) that see the key at `position`.
NATTEN_INLINE int first_query(const Map& map, int axis, int position) {
  return seen_begin<int>(position, map.length[axis], map.kernel[axis], 1, false);
}
NATTEN_INLINE int end_query(const Map& map, int axis, int position) {
  return seen_end<int>(position, map.length[axis], map.kernel[axis], 1, false);
}

// By how many columns of the other side (n-tiles of 8) a tile needs.
template <int kTiles_>
struct Shape {
  static constexpr int kTiles = kTiles_, kColumns = kTiles * 8;
  static constexpr int kMostKernelX = kColumns - kTileX + 1;  // of a tile of queries
};
using Narrow = Shape<2>;
using Wide = Shape<3>;
static_assert(Wide::kMostKernelX >= kMostKernel, "all kernels");
// Of the largest kernel for which Narrow does in every pass: see band::key_origin.
constexpr int kMostNarrowKernel = 8;

// Whether there are kernels with Wide. For longer rows of fp32 there are none, as the wheel would grow by 0.2 MB.
template <class T, int D>
constexpr bool kHasWide = dev::is_16_bit<T> || D <= 32;

// Key rows that a tile of queries takes, in goes of two.
NATTEN_INLINE int key_rows(int kernel_y) { return (kernel_y + kTileY) / 2 * 2; }

// Shared memory of the biases, see bias.h.
constexpr int kBiasMargin = 32;  // pairs: by how many a tile's columns may lie beside a row
NATTEN_INLINE int bias_row_bytes(int kernel_x) { return 2 * kernel_x * 8; }
NATTEN_INLINE int bias_bytes(const int* kernel) {
  return ((2 * kernel[kZ] - 1) * (2 * kernel[kY] - 1) + 1) * bias_row_bytes(kernel[kX]) + 2 * kBiasMargin * 8;
}

// Relative positions, of which each has a bias, and shared memory of the sums of their gradients of one warp.
NATTEN_INLINE int relative_positions(const int* kernel) {
  return (2 * kernel[kZ] - 1) * (2 * kernel[kY] - 1) * (2 * kernel[kX] - 1);
}
NATTEN_INLINE int sums_bytes(const int* kernel) {
  return (band::kScratchNext + relative_positions(kernel) + 3) / 4 * 16;
}

}  // namespace natten_core::cuda::box
