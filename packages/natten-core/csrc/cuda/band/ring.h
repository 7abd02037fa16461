// Rows of two tensors (key and value, or query and the output's gradient) of a strip, streamed through shared memory
// by a warp that does nothing else.
//
// Row r of the map is in slot r % slots. Rows and columns beyond the map are zero, so that whatever is multiplied with
// them stays finite.
#pragma once

#include "cuda/band/fragments.h"
#include "cuda/band/params.h"
#include "cuda/device/primitives.h"

namespace natten_core::cuda::band {

template <class T, int D, int kSlots>
struct Ring {
  uint32_t first, second;  // shared memory: [kSlots, columns, D] each
  int columns;             // of the strip

  DEV_FN uint32_t row_bytes() const { return uint32_t(columns * kRowBytes<T, D>); }
  DEV_FN uint32_t bytes() const { return kSlots * row_bytes(); }
  // Where row `row` is, from `first` or `second`; `next` of it is where row + 1 is.
  DEV_FN uint32_t at(int row) const { return uint32_t(row % kSlots) * row_bytes(); }
  DEV_FN uint32_t next(uint32_t at) const { return at + row_bytes() == bytes() ? 0 : at + row_bytes(); }
};

// The warp that fills a ring, a Ring or the BackwardRing of as many slots as the problem needs. A lane always copies
// the same chunk of every 32 / kChunks-th column.
template <class T, int D, class AnyRing, int kUnroll>
struct RingLoader {
  static constexpr int kChunks = kRowBytes<T, D> / 16;  // 16-byte chunks of a row of one column
  static constexpr int kElements = 16 / int(sizeof(T));  // of a chunk
  static constexpr int kColumnStep = 32 / kChunks;

  AnyRing ring;
  Steps first_steps, second_steps;
  const T *first, *second;  // the next row, at the lane's first column and chunk
  int row, rows;            // the next row, and how many the map has
  uint32_t at;              // of the next row, in the ring
  int columns_present;      // of the map, from the strip's first column on; 0 if head_dim ends before the chunk

  // Of two tensors of a sample and head, [Y, X, head_dim], from row `begin`, which is `begin_at` in the ring, and
  // column `x` of the part's map on.
  DEV_FN RingLoader(const AnyRing& into, const Part& part, const T* from_first, const Steps& steps_of_first,
                    const T* from_second, const Steps& steps_of_second, int begin, uint32_t begin_at, int x,
                    int head_dim)
      : ring(into), first_steps(steps_of_first), second_steps(steps_of_second) {
    const int chunk = lane() % kChunks, column = x + lane() / kChunks;
    first = from_first + first_steps.at(part, begin, column) + chunk * kElements;
    second = from_second + second_steps.at(part, begin, column) + chunk * kElements;
    row = begin, rows = part.map.length_y, at = begin_at;
    columns_present = chunk * kElements < head_dim ? part.map.length_x - x : 0;
  }

  // Starts copying the rows before `end` that were not yet; calls `each(row, at)` for each.
  template <class Function>
  DEV_FN void load(int end, const Function& each) {
    for (; row < end; ++row) {
      const int present = row < rows ? columns_present : 0;
      const T *a = first, *b = second;
      uint32_t to = at + shared_offset<kHalves<T, D>>(lane() / kChunks, lane() % kChunks);
#pragma unroll kUnroll
      for (int column = lane() / kChunks; column < ring.columns; column += kColumnStep) {
        // The permutation of chunks repeats after 8 columns.
        if (kColumnStep % 8 != 0) to = at + shared_offset<kHalves<T, D>>(column, lane() % kChunks);
        dev::cp_async<16>(ring.first + to, a, column < present);
        dev::cp_async<16>(ring.second + to, b, column < present);
        a += kColumnStep * first_steps.x, b += kColumnStep * second_steps.x;
        to += kColumnStep * kRowBytes<T, D>;
      }
      each(row, at);
      first += first_steps.y, second += second_steps.y;
      at = ring.next(at);
    }
  }

 private:
  static DEV_FN int lane() { return int(threadIdx.x & 31); }
};

}  // namespace natten_core::cuda::band
