// Tiles of 64 token rows in shared memory, in bytes: what is in a row is a matter of product.cuh.
//
// Rows of 16-byte chunks, permuted so that 8 rows at one chunk (ldmatrix), 2 rows at four chunks (16-byte accesses),
// and every second of 8 rows at two chunks four apart (the rows of a product in tf32) touch every bank once. Warp w
// owns rows 16w .. 16w + 15: it copies them, from and to memory.
#pragma once

#include "cuda/dense/geometry.h"
#include "cuda/dense/shape.h"
#include "cuda/device/primitives.h"

namespace natten_core::cuda::dense {

// Tiles start at multiples of their rows' bytes, so that a chunk is found by one exclusive or: in terms of its address,
// its number is its place in the row, permuted. Rows 8 apart are permuted alike.
template <int kBytes>
DEV_FN uint32_t row_of(uint32_t tile, int row) {
  const int swizzle = ((row >> 1) & 3) | (kBytes == 64 ? 0 : (row & 1) << 2);
  return tile + static_cast<uint32_t>(row * kBytes + (swizzle << 4));
}
DEV_FN uint32_t chunk_of(uint32_t row, int chunk) { return row ^ static_cast<uint32_t>(chunk << 4); }

DEV_FN int lane_of() { return static_cast<int>(threadIdx.x) & 31; }
DEV_FN int warp_of() { return static_cast<int>(threadIdx.x) >> 5; }
// The lane's rows in its warp's C fragments are this one and the one 8 below; its copies are of these two rows too.
DEV_FN int fragment_row() { return warp_of() * 16 + (lane_of() >> 2); }

// Copies the warp's rows of a map into `tile`; zero where there is no token or no chunk. `source` is the map's first
// token, `offsets` the shared [64] byte offsets of the others.
template <int kBytes>
DEV_FN void load_rows(uint32_t tile, const char* source, uint32_t offsets, int tokens, int chunks) {
  const int row = fragment_row(), quad = lane_of() & 3;
  const uint32_t offset[2] = {dev::lds<uint32_t>(offsets + row * 4), dev::lds<uint32_t>(offsets + row * 4 + 32)};
  const uint32_t to = row_of<kBytes>(tile, row);
#pragma unroll
  for (int i = 0; i < kBytes / 32; ++i) {
    const int below = (i & 1) * 8, chunk = quad + (i >> 1) * 4;
    dev::cp_async<16>(chunk_of(to, chunk) + below * kBytes, source + (offset[i & 1] + chunk * 16),
                      row + below < tokens && chunk < chunks);
  }
}

// Rounds to tf32 what this thread has copied, once it has waited for it: once for all warps that multiply it.
template <class T, int kDim>
DEV_FN void round_copied(uint32_t tile) {
  if constexpr (!dev::is_16_bit<T>) {
    constexpr int kBytes = kRowBytes<T, kDim>;
    const uint32_t row = row_of<kBytes>(tile, fragment_row());
#pragma unroll
    for (int i = 0; i < kBytes / 32; ++i) {
      const uint32_t at = chunk_of(row, (lane_of() & 3) + (i >> 1) * 4) + (i & 1) * 8 * kBytes;
      auto words = dev::lds<dev::u128>(at);
#pragma unroll
      for (int j = 0; j < 4; ++j) words[j] = dev::to_tf32(words[j]);
      dev::sts(at, words);
    }
  }
}

}  // namespace natten_core::cuda::dense
