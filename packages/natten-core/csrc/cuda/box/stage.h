// Boxes of two tensors (key and value, or query and the output's gradient), a plane at a time, in shared memory. Rows
// and columns beyond the map are zero.
#pragma once

#include "cuda/band/fragments.h"
#include "cuda/box/params.h"
#include "cuda/device/primitives.h"

namespace natten_core::cuda::box {

template <class T, int D>
struct Stages {
  uint32_t shared;
  int stages, rows, columns;

  DEV_FN uint32_t row_bytes() const { return uint32_t(columns * band::kRowBytes<T, D>); }
  DEV_FN uint32_t half() const { return uint32_t(rows) * row_bytes(); }
  DEV_FN uint32_t first(int stage) const { return shared + uint32_t(stage) * 2 * half(); }
  DEV_FN uint32_t end() const { return first(stages); }
  // The stage of a step.
  DEV_FN int of(int step) const { return step & (stages - 1); }
  // Where the key-major pass has the statistics of a row: [stages, rows, 2, columns] floats; the end for the stage
  // after the last.
  DEV_FN uint32_t statistics(int stage, int row) const { return end() + uint32_t((stage * rows + row) * columns * 8); }

  // By the warp that loads: `count` rows of the box, from row `row` and column `column` of the planes on, which begin
  // at `a` and `b`.
  DEV_FN void load(int stage, const Part& part, const T* a, const Steps& steps_a, const T* b, const Steps& steps_b,
                   int row, int count, int column, int head_dim) const {
    constexpr int kChunks = band::kRowBytes<T, D> / 16, kColumnStep = 32 / kChunks;
    constexpr int kElements = 16 / int(sizeof(T));  // of a chunk
    const int lane = int(threadIdx.x & 31), chunk = lane % kChunks, at_first = lane / kChunks;
    const int rows_present = part.map.length[kY] - row;
    const int columns_present = chunk * kElements < head_dim ? part.map.length[kX] - column : 0;
    a += steps_a.at(part, row, column + at_first) + chunk * kElements;
    b += steps_b.at(part, row, column + at_first) + chunk * kElements;
    for (int r = 0; r < count; ++r, a += steps_a.y, b += steps_b.y) {
      const int present = r < rows_present ? columns_present : 0;
      const T *from_a = a, *from_b = b;
      const uint32_t to = first(stage) + uint32_t(r) * row_bytes();
#pragma unroll 4
      for (int c = at_first; c < columns; c += kColumnStep) {
        const uint32_t at = to + band::shared_offset<band::kHalves<T, D>>(c, chunk);
        dev::cp_async<16>(at, from_a, c < present);
        dev::cp_async<16>(at + half(), from_b, c < present);
        from_a += kColumnStep * steps_a.x, from_b += kColumnStep * steps_b.x;
      }
    }
  }
};

}  // namespace natten_core::cuda::box
