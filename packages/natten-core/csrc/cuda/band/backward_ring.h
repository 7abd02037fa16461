// The ring of ring.h with as many slots as the problem needs, for both passes of the backward, and how the warp that
// fills it and those that compute wait for one another.
#pragma once

#include "cuda/band/backward_params.h"
#include "cuda/band/fragments.h"
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
  // Likewise `by` slots on, at most a round.
  DEV_FN uint32_t next_at(uint32_t at, int by) const {
    const uint32_t to = at + uint32_t(by) * row_bytes;
    return to >= bytes ? to - bytes : to;
  }
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
    size_t at = __cvta_generic_to_global(row);
    asm volatile("" : "+l"(at));  // else the compiler finds it anew for every row, from all the strides
    row = static_cast<T*>(__cvta_global_to_generic(at));
#endif
  }
  DEV_FN T* next() {
    T* const now = row;
    row += step;
    return now;
  }
};

// Two mbarriers for each of the steps that may be under way: its rows are there, and it needs them no more. Steps are
// numbered over all that a block does.
struct StepSignals {
  static constexpr int kStages = kSignalBytes / 16;
  uint32_t base;

  DEV_FN void start(int computing_warps) const {
    for (int stage = 0; stage < kStages; ++stage) {
      dev::mbarrier_init(base + uint32_t(stage * 16), 32);
      dev::mbarrier_init(base + uint32_t(stage * 16 + 8), computing_warps);
    }
  }
  DEV_FN void will_load(int step) const { dev::cp_async_mbarrier_arrive(at(step)); }
  DEV_FN void wait_loaded(int step) const { dev::mbarrier_wait(at(step), parity(step)); }
  DEV_FN void set_done(int step, int lane) const {
    dev::syncwarp();
    if (lane == 0) dev::mbarrier_arrive(at(step) + 8);
  }
  DEV_FN void wait_done(int step) const { dev::mbarrier_wait(at(step) + 8, parity(step)); }

 private:
  DEV_FN uint32_t at(int step) const { return base + uint32_t(step % kStages * 16); }
  static DEV_FN uint32_t parity(int step) { return uint32_t(step / kStages & 1); }
};

// What the warp that loads knows of steps: all before `done` need their rows no more.
struct StepsDone {
  StepSignals signals;
  int done = 0;

  DEV_FN void wait_before(int step) {
    for (; done < step; ++done) signals.wait_done(done);
  }
};

// The warp that fills a ring. A lane always copies the same chunk of every 32 / kChunks-th column.
template <class T, int D>
struct BackwardLoader {
  static constexpr int kChunks = D / 8, kColumnStep = 32 / kChunks;

  BackwardRing<T, D> ring;
  Steps first_steps, second_steps;
  const T *first, *second;  // the next row, at the lane's first column and chunk
  int row, rows;            // the next row, and how many the map has
  uint32_t at;              // of the next row, in the ring
  int columns_present;      // of the map, from the strip's first column on; 0 if head_dim ends before the chunk

  // Of two tensors of a sample and head, [Y, X, head_dim], from row `begin` and column `x` of the part's map on.
  DEV_FN BackwardLoader(const BackwardRing<T, D>& into, const Part& part, const T* from_first,
                        const Steps& steps_of_first, const T* from_second, const Steps& steps_of_second, int begin,
                        int x, int head_dim)
      : ring(into), first_steps(steps_of_first), second_steps(steps_of_second) {
    const int chunk = lane() % kChunks, column = x + lane() / kChunks;
    first = from_first + first_steps.at(part, begin, column) + chunk * 8;
    second = from_second + second_steps.at(part, begin, column) + chunk * 8;
    row = begin, rows = part.map.length_y, at = ring.at(begin % ring.slots);
    columns_present = chunk * 8 < head_dim ? part.map.length_x - x : 0;
  }

  // Starts copying the rows before `end` that were not yet; calls `each(row, at)` for each.
  template <class Function>
  DEV_FN void load(int end, const Function& each) {
    for (; row < end; ++row) {
      const int present = row < rows ? columns_present : 0;
      const T *a = first, *b = second;
      uint32_t to = at + shared_offset<D>(lane() / kChunks, lane() % kChunks);
#pragma unroll 4
      for (int column = lane() / kChunks; column < ring.columns; column += kColumnStep) {
        // The permutation of chunks repeats after 8 columns.
        if (kColumnStep % 8 != 0) to = at + shared_offset<D>(column, lane() % kChunks);
        dev::cp_async<16>(ring.first + to, a, column < present);
        dev::cp_async<16>(ring.second + to, b, column < present);
        a += kColumnStep * first_steps.x, b += kColumnStep * second_steps.x;
        to += kColumnStep * D * 2;
      }
      each(row, at);
      first += first_steps.y, second += second_steps.y;
      at = ring.next_at(at);
    }
  }

 private:
  static DEV_FN int lane() { return int(threadIdx.x & 31); }
};

// The warp that loads brings the rows of a strip near, of a tensor [Y, X, head_dim] of which the computing warps take
// rows straight to registers: two rows at a time, a lane the columns lane and lane + 32.
template <class T>
struct Prefetcher {
  static_assert(kMaxStrip * kTileX <= 64, "a lane has two columns");

  const T* next;  // at the lane's first column
  Steps steps;
  int row, rows;
  bool present[2];  // the lane's columns
  bool long_rows;

  DEV_FN Prefetcher(const View<const T>& view, const Cut& cut, const Part& part, int sample, int head, int head_dim)
      : steps(view, cut), row(part.y), rows(part.map.length_y), long_rows(head_dim > 64) {
    const int lane = int(threadIdx.x & 31);
    next = view.of(sample, head) + steps.at(part, part.y, part.x + lane);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int column = lane + i * 32, x = part.x + column;
      present[i] = column < cut.tiles * kTileX && x >= 0 && x < part.map.length_x;
    }
  }
  DEV_FN void two_rows() {
#pragma unroll
    for (int h = 0; h < kTileY; ++h, ++row, next += steps.y)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if (row >= rows || !present[i]) continue;
        dev::prefetch_global(next + i * 32 * steps.x);
        if (long_rows) dev::prefetch_global(next + i * 32 * steps.x + 64);
      }
  }
};

}  // namespace natten_core::cuda::band
