// What a warp and its lanes have of a box.
#pragma once

#include "cuda/band/fragments.h"
#include "cuda/box/params.h"

namespace natten_core::cuda::box {

// The tiles of a box that lie in the map; a warp has each.
struct Tiles {
  int y, x;

  DEV_FN Tiles(const Cut& cut, const Part& part)
      : y(int(min_of(cut.tiles_y, ceil_div(part.map.length[kY] - part.y, kTileY)))),
        x(int(min_of(cut.tiles_x, ceil_div(part.map.length[kX] - part.x, kTileX)))) {}
  DEV_FN int warps() const { return y * x; }
};

// A warp's tile, and the lane's two positions in it: [0] in the upper row, [1] in the lower. Beyond the map, where
// tiles may begin and end, they are the nearest that it has.
struct Tile {
  int y, x;  // its first row and column
  int row[2], column;
  bool present[2];

  DEV_FN Tile(const Part& part, const Tiles& tiles, int warp, int group) {
    y = part.y + warp / tiles.x * kTileY, x = part.x + warp % tiles.x * kTileX;
    const int wanted = x + group, columns = part.map.length[kX], rows = part.map.length[kY];
    column = int(max_of(0, min_of(wanted, columns - 1)));
#pragma unroll
    for (int h = 0; h < 2; ++h) row[h] = int(min_of(y + h, rows - 1)), present[h] = y + h < rows && column == wanted;
  }

  // The lane's row of half h in a plane of a tensor. What leads to it is found only when it is asked for: else the ways
  // in all tensors take registers all the time.
  template <class V>
  DEV_FN auto* of(const V& view, const Cut& cut, const Part& part, int sample, int z, int head, int h) const {
    return plane_of(view, cut, part, sample, z, head) +
           Steps(view, cut).at(part, band::anew(row[h]), band::anew(column));
  }
};

}  // namespace natten_core::cuda::box
