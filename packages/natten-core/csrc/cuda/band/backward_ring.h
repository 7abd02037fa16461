// What both passes of the backward have beyond the forward: a ring of as many slots as the problem needs, and lanes'
// ways through tensors that are not streamed.
#pragma once

#include "cuda/band/backward_params.h"
#include "cuda/band/fragments.h"
#include "cuda/band/ring.h"
#include "cuda/band/signals.h"
#include "cuda/device/primitives.h"

namespace natten_core::cuda::band {

template <class T, int D>
struct BackwardRing {
  uint32_t first, second;  // shared memory: [slots, columns, D] each
  int columns, slots;
  uint32_t row_bytes, bytes;

  DEV_FN void set(uint32_t shared, int columns_, int slots_) {
    columns = columns_, slots = slots_;
    row_bytes = uint32_t(columns * kRowBytes<T, D>), bytes = uint32_t(slots) * row_bytes;
    first = shared, second = shared + bytes;
  }
  DEV_FN uint32_t end() const { return second + bytes; }
  // Where what is in a slot is, from `first` or `second`.
  DEV_FN uint32_t at(int slot) const { return uint32_t(slot) * row_bytes; }
  DEV_FN uint32_t next(uint32_t at) const { return at + row_bytes == bytes ? 0 : at + row_bytes; }
  // Likewise `by` slots on, at most a round.
  DEV_FN uint32_t next(uint32_t at, int by) const {
    const uint32_t to = at + uint32_t(by) * row_bytes;
    return to >= bytes ? to - bytes : to;
  }
};

// sum = start + rows * key, over D.
template <class T, int D>
DEV_FN void multiply_rows_from(float (&sum)[4], const float (&start)[4], const RowPair<D>& rows,
                               const RowWords<D>& key) {
  dev::mma<T>(sum, rows.step[0], factor_word<T>(key.word[0]), factor_word<T>(key.word[1]), start);
#pragma unroll
  for (int s = 1; s < D / 16; ++s)
    dev::mma<T>(sum, rows.step[s], factor_word<T>(key.word[2 * s]), factor_word<T>(key.word[2 * s + 1]));
}

// The product of each of the rows of half `h` with the row of another tensor that its lanes hold.
template <class T, int D>
DEV_FN float own_product(const RowPair<D>& rows, const RowWords<D>& other, int h, int lane) {
  if constexpr (dev::is_16_bit<T>) {
    // The lanes of a quad find those with the rows of all 8; that with its own is in one of them.
    float products[4] = {};
    multiply_rows<T, D>(products, rows, other);
    return dev::shfl(lane & 4 ? products[2 * h + 1] : products[2 * h], (lane & 28) | (lane >> 3));
  } else {
    // The other row in fp32, the factors cut off as in other products of them, so that their errors cancel.
    float product = 0.f;
#pragma unroll
    for (int i = 0; i < D / 8; ++i)
      product = dev::fma(float_of(rows.step[i / 2][i % 2 * 2 + h] & 0xffffe000u), float_of(other.word[i]), product);
    product += dev::shfl_xor(product, 1);
    return product + dev::shfl_xor(product, 2);
  }
}

// A copy that the compiler takes for another value: else it makes an accumulator's start anew from one register each
// time.
DEV_FN float distinct(float x) {
#if defined(__CUDACC__)
  x = __uint_as_float(copy(__float_as_uint(x)));
#endif
  return x;
}

// A lane's two rows of a step in a tensor. They are found anew for each step: to keep the ways in all tensors would
// take registers that the loops over rows need.
template <class T>
struct LaneRows {
  T* upper;
  int step;

  DEV_FN LaneRows(const View<T>& view, const Cut& cut, const Part& part, int sample, int head, int y, int column) {
    const Steps steps(view, cut);
    upper = view.of(anew(sample), head) + steps.at(part, anew(y), anew(column)), step = steps.y;
  }
  DEV_FN T* operator[](int h) const { return upper + h * step; }
};

// What the warp that loads knows of steps: all before `done` need their rows no more.
struct StepsDone {
  Signals signals;
  int done = 0;

  DEV_FN void wait_before(int step) {
    for (; done < step; ++done) signals.wait_done(done);
  }
};

// What fills it.
template <class T, int D>
using BackwardLoader = RingLoader<T, D, BackwardRing<T, D>, 4>;

// The warp that loads brings the rows of a strip near, of a tensor [Y, X, head_dim] of which the computing warps take
// rows straight to registers: two rows at a time, a lane the columns lane and lane + 32.
template <class T>
struct Prefetcher {
  static_assert(kMaxTiles * kTileX <= 64, "a lane has two columns");

  const T* next;  // at the lane's first column
  Steps steps;
  int row, rows;
  bool present[2];  // the lane's columns
  bool long_rows;

  DEV_FN Prefetcher(const View<const T>& view, const Cut& cut, const Part& part, int sample, int head, int head_dim)
      : steps(view, cut), row(part.y), rows(part.map.length_y), long_rows(head_dim * int(sizeof(T)) > 128) {
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
        if (long_rows) dev::prefetch_global(next + i * 32 * steps.x + 128 / int(sizeof(T)));
      }
  }
};

}  // namespace natten_core::cuda::band
