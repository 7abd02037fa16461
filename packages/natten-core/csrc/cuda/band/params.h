// What the band kernels are given.
#pragma once

#include <cstdint>

#include "cuda/band/geometry.h"
#include "cuda/device/types.h"
#include "natten_core/problem.h"

namespace natten_core::cuda::band {

// [B, Y, X, heads, head_dim] with a unit last stride; the strides count elements.
template <class T>
struct View {
  T* data;
  int64_t batch, y, x, head;

  DEV_HD T* of(int sample, int at_head) const { return data + sample * batch + at_head * head; }
};

template <class T>
View<T> view(const Tensor& tensor) {
  return {static_cast<T*>(tensor.data), tensor.batch, tensor.axis[kY], tensor.axis[kX], tensor.head};
}

// How the work is cut; see geometry.h. The grid is (heads, residue maps x strips x bands, blocks of batch).
struct Cut {
  int extent_y, extent_x, dilation_y, dilation_x, kernel_y, kernel_x;
  int tiles;          // columns of tiles of a strip, a warp each
  int strips, bands;  // of the largest residue map
  int band_rows;      // query rows of a band, even
  int batch, batch_per_block;
  int shared_columns;  // key columns of a strip that shared memory has room for
  int tables;          // bias tables of a strip that shared memory has room for
};

// The part of a block: a map, its residue, a strip and a band of it, and samples of the batch.
struct Part {
  Map map;
  int residue_y, residue_x;
  int x;               // first query column of the strip
  int y, y_end;        // query rows of the band
  int batch, batch_end;
};

NATTEN_INLINE Part part_of(const Cut& cut, int block, int batch_block) {
  Part part;
  const int band = block % cut.bands, strip = block / cut.bands % cut.strips;
  const int residue = block / cut.bands / cut.strips;
  part.residue_x = residue % cut.dilation_x, part.residue_y = residue / cut.dilation_x;
  part.map.length_y = int(group_length(cut.extent_y, cut.dilation_y, part.residue_y));
  part.map.length_x = int(group_length(cut.extent_x, cut.dilation_x, part.residue_x));
  part.map.kernel_y = cut.kernel_y, part.map.kernel_x = cut.kernel_x;
  part.x = strip * cut.tiles * kTileX;
  part.y = band * cut.band_rows;
  part.y_end = int(min_of(part.y + cut.band_rows, part.map.length_y));
  part.batch = batch_block * cut.batch_per_block;
  part.batch_end = int(min_of(part.batch + cut.batch_per_block, cut.batch));
  return part;
}

NATTEN_INLINE int residue_of(const Cut& cut, const Part& part) {
  return part.residue_y * cut.dilation_x + part.residue_x;
}

// Ways within a sample, from a position of a residue map to the next: elements, which 32 bits hold.
struct Steps {
  int y, x;                // to the next row and column of the map
  int coordinate_y, coordinate_x;

  template <class T>
  DEV_HD Steps(const View<T>& view, const Cut& cut)
      : y(int(view.y) * cut.dilation_y),
        x(int(view.x) * cut.dilation_x),
        coordinate_y(int(view.y)),
        coordinate_x(int(view.x)) {}
  // Of the position (row, column) of the part's map.
  DEV_HD int at(const Part& part, int row, int column) const {
    return row * y + part.residue_y * coordinate_y + column * x + part.residue_x * coordinate_x;
  }
};

template <class T>
struct ForwardParams {
  Cut cut;
  View<const T> query, key, value;  // [B, Y, X, heads, head_dim]; key and value heads: heads / group
  View<T> output;                   // [B, Y, X, heads, head_dim]
  View<float> lse;                  // [B, Y, X, heads]
  const float* rpb;                 // [heads, 2Ky-1, 2Kx-1], or null
  int group;                        // query heads of a key head
  int head_dim;                     // of memory; at most that of the kernel
  float scale;
};

}  // namespace natten_core::cuda::band
