// Sums of `multiply` on their way to memory, which wants 16 bytes of a row from a lane.
#pragma once

#include "cuda/dense/product.cuh"

namespace natten_core::cuda::dense {

// 16 rows of sums times factors, in the type of the result: of every 8 columns, two words of two or four floats.
template <class T, int kDim>
struct Rounded {
  using Word = std::conditional_t<dev::is_16_bit<T>, uint32_t, float>;
  Word word[kDim / 8][kTileWords<T>];
};

template <class T, int kDim>
DEV_FN Rounded<T, kDim> round_rows(const float (&sum)[kDim / 8][4], float factor, float factor_below) {
  Rounded<T, kDim> rows;
#pragma unroll
  for (int n = 0; n < kDim / 8; ++n)
    if constexpr (dev::is_16_bit<T>) {
      rows.word[n][0] = dev::pack<T>(sum[n][0] * factor, sum[n][1] * factor);
      rows.word[n][1] = dev::pack<T>(sum[n][2] * factor_below, sum[n][3] * factor_below);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) rows.word[n][i] = sum[n][i] * (i < 2 ? factor : factor_below);
    }
  return rows;
}

// Writes 16 rows from `first` to a map; those of 16 bits by way of shared memory of the warp's own, `staging`
// [16, kStagedDim].
template <class T, int kDim>
DEV_FN void store_rows(const Rounded<T, kDim>& rows, int first, uint32_t staging, char* target, uint32_t offsets,
                       int tokens, int chunks) {
  const int row = lane_of() >> 2, quad = lane_of() & 3;
  const uint32_t at = offsets + (first + row) * 4;
  const uint32_t offset[2] = {dev::lds<uint32_t>(at), dev::lds<uint32_t>(at + 32)};
  using Words = dev::vec<typename Rounded<T, kDim>::Word, 4>;
  const auto write = [&](int half, int chunk, const Words& words) {
    if (first + row + half * 8 < tokens && chunk < chunks)
      dev::stg(reinterpret_cast<Words*>(target + (offset[half] + chunk * 16)), words);
  };
  if constexpr (dev::is_16_bit<T>) {
    constexpr int kStaged = kStagedDim<T, kDim>, kChunks = kStaged / 8, kBytes = kRowBytes<T, kStaged>;
    const uint32_t here = row_of<kBytes>(staging, row);
#pragma unroll
    for (int part = 0; part < kDim / kStaged; ++part) {
      dev::syncwarp();
#pragma unroll
      for (int n = 0; n < kChunks; ++n)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          dev::sts(chunk_of(here + quad * 4, n) + half * 8 * kBytes, rows.word[part * kChunks + n][half]);
      dev::syncwarp();
#pragma unroll
      for (int i = 0; i < kStaged / 16; ++i) {
        const int chunk = quad + (i >> 1) * 4;
        write(i & 1, part * kChunks + chunk, dev::lds<Words>(chunk_of(here, chunk) + (i & 1) * 8 * kBytes));
      }
    }
  } else {
#pragma unroll
    for (int n = 0; n < kDim / 32; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        write(i >> 1, n * 8 + (i & 1) * 4 + quad,
              Words{{rows.word[n * 4][i], rows.word[n * 4 + 1][i], rows.word[n * 4 + 2][i], rows.word[n * 4 + 3][i]}});
  }
}

}  // namespace natten_core::cuda::dense
