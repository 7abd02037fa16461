// What the box kernels are given.
#pragma once

#include "cuda/box/geometry.h"
#include "cuda/device/types.h"

namespace natten_core::cuda::box {

// [B, Z, Y, X, heads, head_dim] with a unit last stride; the strides count elements.
template <class T>
struct View {
  T* data;
  int64_t batch, axis[kRank], head;
};

template <class T>
View<T> view(const Tensor& t) {
  return {static_cast<T*>(t.data), t.batch, {t.axis[kZ], t.axis[kY], t.axis[kX]}, t.head};
}

// The grid is (heads, residue maps x boxes, runs of units). A unit is a plane of a sample: the same box in one after
// the other.
struct Cut {
  int extent[kRank], dilation[kRank], kernel[kRank];
  int tiles_y, tiles_x;          // of a box
  int boxes_y, boxes_x;          // of the largest residue map
  int batch, units_per_block;
  int stages, stage_rows, stage_columns;
};

struct Part {
  Map map;
  int residue[kRank];
  int y, x;           // first row and column of the box
  int unit, unit_end;
};

NATTEN_INLINE Part part_of(const Cut& cut, int block, int run) {
  Part part;
  const int box_x = block % cut.boxes_x, box_y = block / cut.boxes_x % cut.boxes_y;
  int residue = block / cut.boxes_x / cut.boxes_y;
  for (int axis = kX; axis >= kZ; --axis) {
    part.residue[axis] = residue % cut.dilation[axis], residue /= cut.dilation[axis];
    part.map.length[axis] = int(group_length(cut.extent[axis], cut.dilation[axis], part.residue[axis]));
    part.map.kernel[axis] = cut.kernel[axis];
  }
  part.y = box_y * cut.tiles_y * kTileY, part.x = box_x * cut.tiles_x * kTileX;
  part.unit = run * cut.units_per_block;
  part.unit_end = int(min_of(part.unit + cut.units_per_block, int64_t{cut.batch} * part.map.length[kZ]));
  return part;
}

// Ways in a plane, in elements: 32 bits hold them.
struct Steps {
  int y, x, coordinate_y, coordinate_x;

  template <class T>
  DEV_HD Steps(const View<T>& view, const Cut& cut)
      : y(int(view.axis[kY]) * cut.dilation[kY]),
        x(int(view.axis[kX]) * cut.dilation[kX]),
        coordinate_y(int(view.axis[kY])),
        coordinate_x(int(view.axis[kX])) {}
  DEV_HD int at(const Part& part, int row, int column) const {
    return row * y + part.residue[kY] * coordinate_y + column * x + part.residue[kX] * coordinate_x;
  }
};

// Where the part's plane z of a sample and head begins.
template <class T>
DEV_HD T* plane_of(const View<T>& view, const Cut& cut, const Part& part, int sample, int z, int head) {
  return view.data + sample * view.batch + (int64_t{z} * cut.dilation[kZ] + part.residue[kZ]) * view.axis[kZ] +
         head * view.head;
}

template <class T>
struct ForwardParams {
  Cut cut;
  View<const T> query, key, value;  // key and value heads: heads / group
  View<T> output;
  View<float> lse;
  const float* rpb;  // [heads, 2Kz-1, 2Ky-1, 2Kx-1], or null
  int group, head_dim;
  float scale;
};

}  // namespace natten_core::cuda::box
