// Matrix products with the rows of a tile, by element type.
//
// A k-step is 16 of 16 bits or 8 of tf32, two chunks of a row in either, which ldmatrix takes alike: Q.K^T is one code.
// For P.V, whose factor has k down the rows, 16-bit rows are transposed by ldmatrix. tf32 rows cannot be: a lane reads
// 16 bytes of its two rows, four columns, each of which it gives to another of four products. So columns of the sum are
// out of order, such that a lane has 16 bytes of a result in a row together, and k within a step is too: column 2t of P
// counts as k = t, and 2t + 1 as t + 4, as the sum of Q.K^T has them.
#pragma once

#include "cuda/dense/tile.cuh"

namespace natten_core::cuda::dense {

template <class T>
inline constexpr int kStep = 32 / static_cast<int>(sizeof(T));

// k-steps over this many tiles of 8 columns.
template <class T, int kTiles>
inline constexpr int kSteps = (kTiles * 8 + kStep<T> - 1) / kStep<T>;

// The C fragment of 8 columns rounded to registers of an A fragment: to half of them for 16 bits, to all for tf32.
template <class T>
inline constexpr int kTileWords = static_cast<int>(sizeof(T));

template <class T>
struct TileWords {
  uint32_t word[kTileWords<T>];  // of rows, then of rows 8 below; tf32: of even columns, then of odd ones
};

template <class T>
DEV_FN TileWords<T> round_tile(const float (&sum)[4]) {
  if constexpr (dev::is_16_bit<T>)
    return {{dev::pack<T>(sum[0], sum[1]), dev::pack<T>(sum[2], sum[3])}};
  else
    return {{dev::to_tf32(sum[0]), dev::to_tf32(sum[2]), dev::to_tf32(sum[1]), dev::to_tf32(sum[3])}};
}

// Puts the words of a tile of 8 columns where they belong among the A fragments of all k-steps.
template <class T, int kCount>
DEV_FN void put_tile(uint32_t (&factor)[kCount][1][4], int tile, const TileWords<T>& words) {
#pragma unroll
  for (int i = 0; i < kTileWords<T>; ++i) {
    const int at = tile * kTileWords<T> + i;
    factor[at / 4][0][at % 4] = words.word[i];
  }
}

// The A fragments of the warp's 16 rows, over head_dim.
template <class T, int kDim>
DEV_FN void load_factor(uint32_t (&a)[kDim / kStep<T>][4], uint32_t tile) {
  const uint32_t row = row_of<kRowBytes<T, kDim>>(tile, warp_of() * 16 + (lane_of() & 15));
#pragma unroll
  for (int s = 0; s < kDim / kStep<T>; ++s) {
    dev::ldmatrix_x4(a[s], chunk_of(row, s * 2 + (lane_of() >> 4)));
  }
}

// sum += A . rows^T, for 8 rows of `tile` from `first`.
template <class T, int kDim>
DEV_FN void multiply_transposed(float (&sum)[4], const uint32_t (&a)[kDim / kStep<T>][4], uint32_t tile, int first) {
  constexpr int kBytes = kRowBytes<T, kDim>;
#pragma unroll
  for (int s = 0; s < kBytes / 64; ++s) {
    uint32_t b[4];
    dev::ldmatrix_x4(b, chunk_of(row_of<kBytes>(tile, lane_of() & 7), s * 4 + (lane_of() >> 3)) + first * kBytes);
    dev::mma<T>(sum, a[2 * s], b[0], b[1]);
    dev::mma<T>(sum, a[2 * s + 1], b[2], b[3]);
  }
}

// sum[part] += A[part] . rows, for the rows of a k-step of `tile` from `first`.
template <class T, int kDim, int kParts>
DEV_FN void multiply(float (&sum)[kParts][kDim / 8][4], const uint32_t (&a)[kParts][4], uint32_t tile, int first) {
  constexpr int kBytes = kRowBytes<T, kDim>;
  if constexpr (dev::is_16_bit<T>) {
#pragma unroll
    for (int n = 0; n < kDim / 16; ++n) {
      uint32_t b[4];
      dev::ldmatrix_x4_trans(b,
                             chunk_of(row_of<kBytes>(tile, lane_of() & 15), n * 2 + (lane_of() >> 4)) + first * kBytes);
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        dev::mma<T>(sum[part][2 * n], a[part], b[0], b[1]);
        dev::mma<T>(sum[part][2 * n + 1], a[part], b[2], b[3]);
      }
    }
  } else {
    const int column = lane_of() >> 2, chunk = (column >> 1) | (column & 1) << 2;
    const uint32_t row[2] = {row_of<kBytes>(tile, (lane_of() & 3) * 2), row_of<kBytes>(tile, (lane_of() & 3) * 2 + 1)};
#pragma unroll
    for (int n = 0; n < kDim / 32; ++n) {
      const auto above = dev::lds<dev::u128>(chunk_of(row[0], n * 8 + chunk) + first * kBytes);
      const auto below = dev::lds<dev::u128>(chunk_of(row[1], n * 8 + chunk) + first * kBytes);
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int part = 0; part < kParts; ++part) dev::mma<T>(sum[part][n * 4 + i], a[part], above[i], below[i]);
    }
  }
}

}  // namespace natten_core::cuda::dense
