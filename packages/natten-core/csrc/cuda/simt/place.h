// Where a group of lanes works, and what the tokens of its tile see or are seen by.
#pragma once

#include "cuda/simt/row.h"
#include "natten_core/neighborhood.h"

namespace natten_core::cuda::simt {

// A tile: `count` tokens from `position` on along x, in one dilation group. No tokens: beyond the map.
struct Place {
  int batch, head;
  int group[kRank], length[kRank], position[kRank];
  int count;
};

DEV_FN int head_of(const Tiling& tiling, const Lanes& lanes) {
  return static_cast<int>(blockIdx.y) * tiling.heads + lanes.group() % tiling.heads;
}

template <int Tokens>
DEV_FN Place locate(const Shape& shape, const Tiling& tiling, int block, const Lanes& lanes) {
  Place place;
  int slot = lanes.group() / tiling.heads;
  place.head = head_of(tiling, lanes);
  place.count = Tokens;
  SIMT_UNROLL
  for (int axis = kX; axis >= kZ; --axis) {
    const int tile = block % tiling.cells[axis] * tiling.slots[axis] + slot % tiling.slots[axis];
    block /= tiling.cells[axis], slot /= tiling.slots[axis];
    place.group[axis] = block % shape.dilation[axis];
    block /= shape.dilation[axis];
    place.length[axis] = shape.shortest[axis] + (place.group[axis] < shape.longer[axis] ? 1 : 0);
    place.position[axis] = axis == kX ? tile * Tokens : tile;
    const int left = place.length[axis] - place.position[axis];
    if (left < (axis == kX ? place.count : 1)) place.count = axis == kX && left > 0 ? left : 0;
  }
  place.batch = block;
  return place;
}

// The row of `head` of the first token of the place's dilation group: positions count from there.
template <class T>
DEV_FN T* origin(const View& view, const Place& place, int head) {
  int64_t offset = place.batch * view.batch + head * view.head;
  SIMT_UNROLL
  for (int axis = 0; axis < kRank; ++axis) offset += place.group[axis] * view.axis[axis];
  return static_cast<T*>(view.data) + offset;
}

DEV_FN int64_t ahead(const View& view, int z, int y, int x) {
  return z * view.step[kZ] + y * view.step[kY] + x * view.step[kX];
}

// The row of the tile's first token.
template <class T>
DEV_FN T* row_of(const View& view, const Place& place, int head) {
  return origin<T>(view, place, head) + ahead(view, place.position[kZ], place.position[kY], place.position[kX]);
}

// The row of the first additional key or value.
template <class T>
DEV_FN T* additional(const View& view, const Place& place, int head) {
  return static_cast<T*>(view.data) + place.batch * view.batch + head * view.head;
}

// The box of positions that the tokens of a tile see (or are seen by), and each token's range along x.
template <int Tokens>
struct Reach {
  int begin[kRank] = {0, 0, 0}, end[kRank] = {0, 0, 0};
  int x_begin[Tokens], x_count[Tokens];

  // Seen: the queries whose windows contain the tile's keys; else the windows of the tile's queries.
  template <bool Seen>
  DEV_FN static Reach of(const Shape& shape, const Place& place) {
    Reach reach;
    SIMT_UNROLL
    for (int i = 0; i < Tokens; ++i) reach.x_begin[i] = reach.x_count[i] = 0;
    if (place.count == 0) return reach;
    SIMT_UNROLL
    for (int axis = 0; axis < kRank; ++axis) {
      const int kernel = shape.kernel[axis], stride = shape.stride[axis], length = place.length[axis];
      const bool causal = shape.causal[axis];
      SIMT_UNROLL
      for (int i = 0; i < (axis == kX ? Tokens : 1); ++i) {
        if (i >= place.count) continue;
        const int at = place.position[axis] + i;
        const int begin =
            Seen ? seen_begin(at, length, kernel, stride, causal) : window_begin(at, length, kernel, stride, causal);
        const int end =
            Seen ? seen_end(at, length, kernel, stride, causal) : window_end(at, length, kernel, stride, causal);
        if (i == 0) reach.begin[axis] = begin;
        reach.end[axis] = end;
        if (axis == kX) reach.x_begin[i] = begin, reach.x_count[i] = end - begin;
      }
    }
    return reach;
  }

  // Turns to what lies along x alone and is seen by all tokens.
  DEV_FN void see_all(int count) {
    begin[kX] = 0, end[kX] = 0;
    SIMT_UNROLL
    for (int i = 0; i < Tokens; ++i) {
      if (x_count[i] > 0) end[kX] = x_count[i] = count;
      x_begin[i] = 0;
    }
  }

  DEV_FN void see(bool (&seen)[Tokens], int x, bool inside) const {
    SIMT_UNROLL
    for (int i = 0; i < Tokens; ++i)
      seen[i] = inside && static_cast<unsigned>(x - x_begin[i]) < static_cast<unsigned>(x_count[i]);
  }
};

DEV_FN int warp_max(int value) {
  SIMT_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) {
    const int other = dev::shfl_xor(value, mask);
    value = other > value ? other : value;
  }
  return value;
}

// Calls row(z, y, inside), at(x, inside) and row_end() for all positions of a box, and after them, where `more` is not
// 0, more_row() and at(0, inside) .. at(more - 1, inside) for what all tokens see. The groups of a warp take as many
// steps as the one with the largest box, because shuffles want all of them.
template <int Tokens, class Row, class MoreRow, class At, class RowEnd>
DEV_FN void walk(Reach<Tokens>& reach, int more, Row&& row, MoreRow&& more_row, At&& at, RowEnd&& row_end) {
  const int zs = warp_max(reach.end[kZ] - reach.begin[kZ]), ys = warp_max(reach.end[kY] - reach.begin[kY]);
  int xs = warp_max(reach.end[kX] - reach.begin[kX]);
  const int rows = zs * ys, all = rows + (more > 0 ? 1 : 0);
  int z = reach.begin[kZ], y = reach.begin[kY];
  SIMT_NO_UNROLL
  for (int i = 0; i < all; ++i) {
    bool inside = true;
    if (i < rows) {
      inside = z < reach.end[kZ] && y < reach.end[kY];
      row(z, y, inside);
    } else {
      reach.see_all(more), xs = more;
      more_row();
    }
    SIMT_NO_UNROLL
    for (int x = reach.begin[kX]; x < reach.begin[kX] + xs; ++x) at(x, inside && x < reach.end[kX]);
    row_end();
    if (++y == reach.begin[kY] + ys) y = reach.begin[kY], ++z;
  }
}

}  // namespace natten_core::cuda::simt
