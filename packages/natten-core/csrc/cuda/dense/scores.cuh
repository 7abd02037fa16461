// P and dS of a map in shared memory, where the warps that have queries leave them for those that have keys.
//
// 16 bits: [64, 64] (query, key), two keys a word, which ldmatrix transposes. tf32: [64, 64] (key, query) already. The
// queries of a row are out of order: bit 3 of the number, then 0, 5, 4, then 2 and 1 within a chunk. So a store touches
// every bank, a k-step is two chunks, and query 8s + 2t is its k = t, 8s + 2t + 1 its t + 4, as `multiply` takes rows.
#pragma once

#include "cuda/dense/product.cuh"

namespace natten_core::cuda::dense {

template <class T>
struct Scores {
  static constexpr int kBytes = kRowBytes<T, kTokens>, kMatrix = kTokens * kBytes;  // of a row, of P
  uint32_t shared;

  // P and dS of the warp's queries and 8 keys.
  DEV_FN void put(int tile, const TileWords<T>& weight, const TileWords<T>& grad) const {
    const auto both = [&](uint32_t to, int i) {
      dev::sts(to, weight.word[i]);
      dev::sts(to + kMatrix, grad.word[i]);
    };
    const int quad = lane_of() & 3;
    if constexpr (dev::is_16_bit<T>) {
      const uint32_t to = row_of<kBytes>(shared, fragment_row()) + quad * 4;
#pragma unroll
      for (int half = 0; half < 2; ++half) both(chunk_of(to, tile) + half * 8 * kBytes, half);
    } else {
      const int query = lane_of() >> 2, chunk = (query & 1) * 4 + warp_of();
#pragma unroll
      for (int odd = 0; odd < 2; ++odd) {
        const uint32_t to = chunk_of(row_of<kBytes>(shared, quad * 2 + odd) + (query >> 1) * 4, chunk);
#pragma unroll
        for (int half = 0; half < 2; ++half) both(to + tile * 8 * kBytes + half * 128, odd * 2 + half);
      }
    }
  }

  // The A fragments of the transpose of P, or of dS for `matrix` 1: 16 keys from `first`, k-step `s` of the queries.
  DEV_FN void load_transposed(uint32_t (&a)[4], int matrix, int first, int s) const {
    const int lane = lane_of();
    const uint32_t from = shared + matrix * kMatrix;
    if constexpr (dev::is_16_bit<T>)
      dev::ldmatrix_x4_trans(
          a, chunk_of(row_of<kBytes>(from, (lane & 7) + (lane >> 4) * 8), (first >> 3) + ((lane >> 3) & 1)) +
                 s * 16 * kBytes);
    else
      dev::ldmatrix_x4(
          a, chunk_of(row_of<kBytes>(from + first * kBytes, lane & 15), (s >> 1) + (lane >> 4) * 4) + (s & 1) * 128);
  }

  // Zeros for the last 8 keys, of which `put` is not called in kernels for 56.
  DEV_FN void clear_last() const {
    const int thread = static_cast<int>(threadIdx.x);
    if constexpr (dev::is_16_bit<T>)
      dev::sts(chunk_of(row_of<kBytes>(shared + (thread >> 6) * kMatrix, thread & 63), 7), dev::u128{});
    else
#pragma unroll
      for (int matrix = 0; matrix < 2; ++matrix)
        dev::sts(shared + matrix * kMatrix + 56 * kBytes + thread * 16, dev::u128{});
  }
};

}  // namespace natten_core::cuda::dense
