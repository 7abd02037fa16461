// The ring of ring.h with as many slots as the problem needs, for both passes of the backward.
#pragma once

#include "cuda/band/fragments.h"
#include "cuda/band/params.h"
#include "cuda/device/primitives.h"

namespace natten_core::cuda::band {

template <class T, int D>
struct BackwardRing {
  static constexpr int kChunks = D / 8;  // 16-byte chunks of a row of one column

  uint32_t first, second;  // shared memory: [slots, columns, D] each
  int columns, slots;
  uint32_t row_bytes, bytes;

  DEV_FN void set(uint32_t shared, int columns_, int slots_) {
    columns = columns_, slots = slots_;
    row_bytes = uint32_t(columns * D * 2), bytes = uint32_t(slots) * row_bytes;
    first = shared, second = shared + bytes;
  }
  DEV_FN uint32_t end() const { return second + bytes; }
  // Where what is in a slot is, from `first` or `second`.
  DEV_FN uint32_t at(int slot) const { return uint32_t(slot) * row_bytes; }
  DEV_FN uint32_t next_at(uint32_t at) const { return at + row_bytes == bytes ? 0 : at + row_bytes; }
  // The slot `by` slots on, at most a round.
  DEV_FN int next(int slot, int by = 1) const { return slot + by >= slots ? slot + by - slots : slot + by; }
};

// sum = start + rows * key, over D.
template <class T, int D>
DEV_FN void multiply_rows_from(float (&sum)[4], const float (&start)[4], const RowPair<D>& rows,
                               const RowWords<D>& key) {
  dev::mma<T>(sum, rows.step[0], key.word[0], key.word[1], start);
#pragma unroll
  for (int s = 1; s < D / 16; ++s) dev::mma<T>(sum, rows.step[s], key.word[2 * s], key.word[2 * s + 1]);
}

// A copy that the compiler takes for another value: else it makes an accumulator's start anew from one register each
// time.
DEV_FN float distinct(float x) {
#if defined(__CUDACC__)
  x = __uint_as_float(copy(__float_as_uint(x)));
#endif
  return x;
}

// A lane's place in a tensor, row after row of its column.
template <class T>
struct LaneRows {
  T* row;
  int step;

  DEV_FN LaneRows(const View<T>& view, const Cut& cut, const Part& part, int sample, int head, int y, int column) {
    const Steps steps(view, cut);
    row = view.of(sample, head) + steps.at(part, y, column), step = steps.y;
#if defined(__CUDACC__)
    asm volatile("" : "+l"(row));  // else the compiler finds it anew for every row, from all the strides
#endif
  }
  DEV_FN T* next() {
    T* const now = row;
    row += step;
    return now;
  }
};

// Asks for the line at p to be brought into the L2 cache.
DEV_FN void prefetch([[maybe_unused]] const void* p) {
#if defined(__CUDACC__)
  asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
#endif
}

// A thread's share of filling a ring: always the same chunk of the same columns, row after row.
template <class T, int D>
struct BackwardLoader {
  static constexpr int kChunks = D / 8;

  BackwardRing<T, D> ring;
  Steps first_steps, second_steps;
  const T *first, *second;          // [Y, X, head_dim] of a sample and head
  int offset_first, offset_second;  // of the next row, at the thread's first column and chunk
  int row, rows;                    // the next row, and how many the map has
  int slot;                         // of the next row, in the ring
  int columns_present;  // of the map, from the strip's first column on; 0 if head_dim ends before the chunk

  // Begins at row `begin` and column `x` of the part's map.
  DEV_FN BackwardLoader(const BackwardRing<T, D>& into, const Part& part, const T* from_first,
                        const Steps& steps_of_first, const T* from_second, const Steps& steps_of_second, int begin,
                        int x, int head_dim)
      : ring(into), first_steps(steps_of_first), second_steps(steps_of_second), first(from_first), second(from_second) {
    const int chunk = int(threadIdx.x) % kChunks, column = x + int(threadIdx.x) / kChunks;
    offset_first = first_steps.at(part, begin, column) + chunk * 8;
    offset_second = second_steps.at(part, begin, column) + chunk * 8;
    row = begin, rows = part.map.length_y, slot = begin % ring.slots;
    columns_present = chunk * 8 < head_dim ? part.map.length_x - x : 0;
  }

  // Starts copying the rows before `end` that were not yet; all threads of the block take part. The caller commits.
  DEV_FN void load(int end) {
    const int chunk = int(threadIdx.x) % kChunks, step = int(blockDim.x) / kChunks;
    for (; row < end; ++row) {
      int a = offset_first, b = offset_second;
      for (int column = int(threadIdx.x) / kChunks; column < ring.columns; column += step) {
        const bool valid = row < rows && column < columns_present;
        const uint32_t to = ring.at(slot) + shared_offset<D>(column, chunk);
        dev::cp_async<16>(ring.first + to, first + a, valid);
        dev::cp_async<16>(ring.second + to, second + b, valid);
        a += step * first_steps.x, b += step * second_steps.x;
      }
      offset_first += first_steps.y, offset_second += second_steps.y;
      slot = ring.next(slot);
    }
  }
};

}  // namespace natten_core::cuda::band
