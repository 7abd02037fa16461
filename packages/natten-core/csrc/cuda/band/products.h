// Products over columns (weights by values, score gradients by keys or queries), and the rows that come of them: as
// fragments.h has them for 16-bit floats, and for tf32.
//
// mma.m16n8k8 takes 8 columns, an n-tile, at a time. Of its terms lane q of a quad has two, which are its columns 2q
// and 2q + 1 here: then the accumulators of an n-tile are the A operand as they are. Nothing transposes 32-bit elements
// on the way from shared memory, but head_dim may be spread over n-tiles in any way: column g of four of them is chunk
// g / 2 + 4 * (g % 2) of 128 bytes of a row, element by element, so that B comes in 16-byte loads as well, again with
// no bank conflict, and so that the lane's sums of a row are its chunks as `load_row` has them.
#pragma once

#include "cuda/band/fragments.h"
#include "cuda/device/primitives.h"

namespace natten_core::cuda::band {

// What of a row of columns a lane addresses, from column `column` on.
template <class T, int D>
struct ColumnOffsets {
  uint32_t pair, single;  // for ldmatrix, of two n-tiles and of one

  DEV_FN ColumnOffsets(int column, int lane)
      : pair(shared_offset<D>(column + (lane & 15), lane >> 4)),
        single(shared_offset<D>(column + (lane & 7), lane >> 4)) {}
};

template <int D>
struct ColumnOffsets<dev::tf32, D> {
  static_assert(D >= 32, "rows of 128 bytes: else 16-byte loads would hold more than the lane needs");
  uint32_t even, odd;  // of the lane's two columns

  DEV_FN ColumnOffsets(int column, int lane) {
    const int first = column + (lane & 3) * 2, chunk = (lane >> 3) | (lane & 4);
    even = shared_offset<kHalves<dev::tf32, D>>(first, chunk);
    odd = shared_offset<kHalves<dev::tf32, D>>(first + 1, chunk);
  }
};

// sum += factor * rows, over the 8 columns of an n-tile that begins at `at`.
template <class T, int D>
DEV_FN void add_tile(float (&sum)[D / 8][4], const float (&factor)[4], uint32_t at,
                     const ColumnOffsets<T, D>& offsets) {
  if constexpr (dev::is_16_bit<T>) {
    add_product<T, D>(sum, Factor<T>(factor), at, offsets.single);
  } else {
    const uint32_t a[4] = {factor_word<T>(bits_of(factor[0])), factor_word<T>(bits_of(factor[2])),
                           factor_word<T>(bits_of(factor[1])), factor_word<T>(bits_of(factor[3]))};
#pragma unroll
    for (int d = 0; d < D / 32; ++d) {
      const auto even = dev::lds<dev::u128>(at + offsets.even + uint32_t(d * 128));
      const auto odd = dev::lds<dev::u128>(at + offsets.odd + uint32_t(d * 128));
#pragma unroll
      for (int i = 0; i < 4; ++i) dev::mma<T>(sum[d * 4 + i], a, factor_word<T>(even[i]), factor_word<T>(odd[i]));
    }
  }
}

// Likewise over the 16 columns of two n-tiles.
template <class T, int D>
DEV_FN void add_tiles(float (&sum)[D / 8][4], const float (&first)[4], const float (&second)[4], uint32_t at,
                      const ColumnOffsets<T, D>& offsets) {
  if constexpr (dev::is_16_bit<T>) {
    add_product<T, D>(sum, Factor<T>(first, second), at, offsets.pair);
  } else {
    add_tile<T, D>(sum, first, at, offsets);
    add_tile<T, D>(sum, second, at + 8 * kRowBytes<T, D>, offsets);
  }
}

// Row half `h` of the sums, times `factor`, as `store_row` takes it.
template <class T, int D>
DEV_FN void to_row(uint32_t (&word)[kHalves<T, D> / 8], const float (*sum)[4], int h, float factor, int quad_lane) {
  if constexpr (dev::is_16_bit<T>) {
#pragma unroll
    for (int n = 0; n < D / 8; ++n) word[n] = dev::pack<T>(sum[n][2 * h] * factor, sum[n][2 * h + 1] * factor);
    to_chunks<D>(word, quad_lane);
  } else {
#pragma unroll
    for (int n = 0; n < D / 8; ++n)
#pragma unroll
      for (int i = 0; i < 2; ++i) word[(n / 4 * 2 + i) * 4 + n % 4] = bits_of(sum[n][2 * h + i] * factor);
  }
}

}  // namespace natten_core::cuda::band
