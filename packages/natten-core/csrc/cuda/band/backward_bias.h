// The gradient of the bias: sums of score gradients by relative position, of one warp, in shared memory.
//
// A lane's score gradients have the places of accumulators (query column, key column); those at one relative column lie
// on a diagonal of them. They go through a scratch area from where each lane gathers the diagonal of its relative
// column, always in the same order.
#pragma once

#include "cuda/band/backward_geometry.h"
#include "cuda/device/primitives.h"

namespace natten_core::cuda::band {

template <int kTiles>
struct BiasSums {
  static_assert(kTiles * 8 <= kScratchColumns, "");

  uint32_t scratch, bins;
  int lane, width;  // relative columns
  int shift;  // the first key column's relative column for the first query column, negated

  // For a tile of queries at column x whose keys begin at column key_x, and `rows` relative rows. The bins, the warp's
  // own as the scratch area is, become 0.
  DEV_FN void set(uint32_t scratch_, uint32_t bins_, int rows, int kernel_x, int lane_, int x, int key_x) {
    scratch = scratch_, bins = bins_, lane = lane_;
    width = 2 * kernel_x - 1, shift = x - key_x - (kernel_x - 1);
    for (int e = lane; e < rows * width; e += 32) dev::sts(bins + uint32_t(e * 4), 0.f);
  }

  DEV_FN void write(uint32_t to, int tile, float first, float second) const {
    dev::sts(to + uint32_t(((lane >> 2) * kScratchColumns + tile * 8 + (lane & 3) * 2) * 4),
             dev::vec<float, 2>{{first, second}});
  }
  DEV_FN void write(uint32_t to, const float (&value)[kTiles][2]) const {
#pragma unroll
    for (int t = 0; t < kTiles; ++t) write(to, t, value[t][0], value[t][1]);
  }
  DEV_FN void gather(uint32_t from, int relative_column, int relative_row) const {
    dev::syncwarp();
    if (relative_column < width) {
      const uint32_t bin = bins + uint32_t((relative_row * width + relative_column) * 4);
      float sum = dev::lds<float>(bin);
#pragma unroll
      for (int g = 0; g < 8; ++g) {
        const int column = relative_column + g + shift;
        if (column >= 0 && column < kTiles * 8)
          sum += dev::lds<float>(from + uint32_t((g * kScratchColumns + column) * 4));
      }
      dev::sts(bin, sum);
    }
    dev::syncwarp();
  }

  // Adds a row of sums: tile by tile, then all at once where it is to be kept.
  DEV_FN void put(int tile, float first, float second) const { write(scratch, tile, first, second); }
  DEV_FN void add_put(int relative_row) const { gather(scratch, lane, relative_row); }

  DEV_FN void add(int relative_row, const float (&value)[kTiles][2]) const {
    write(scratch, value);
    gather(scratch, lane, relative_row);
  }
  // Two rows at once, for up to 16 relative columns.
  DEV_FN void add(int relative_row, const float (&value)[kTiles][2], const float (&next)[kTiles][2]) const {
    write(scratch, value);
    write(scratch + kScratchNext * 4, next);
    gather(scratch + (lane & 16 ? kScratchNext * 4 : 0), lane & 15, relative_row + (lane >> 4));
  }
};

}  // namespace natten_core::cuda::band
