// Tiles of 64 token rows in shared memory, and matrix products with them.
//
// Rows of 16-byte chunks, permuted so that 8 rows at one chunk (ldmatrix) and 2 rows at four chunks (16-byte accesses)
// touch every bank once. Warp w owns rows 16w .. 16w + 15: it copies them, from and to memory.
#pragma once

#include "cuda/dense/geometry.h"
#include "cuda/device/primitives.h"

namespace natten_core::cuda::dense {

template <int kDim>
constexpr int kTileBytes = kTokens * kDim * 2;

template <int kDim>
constexpr int kRowBytes = kDim * 2;

// Tiles start at multiples of kRowBytes, so that a chunk is found by one exclusive or: in terms of its address, its
// number is its place in the row, permuted. Rows 8 apart are permuted alike.
template <int kDim>
DEV_FN uint32_t row_of(uint32_t tile, int row) {
  const int swizzle = ((row >> 1) & 3) | (kDim == 32 ? 0 : (row & 1) << 2);
  return tile + static_cast<uint32_t>(row * kRowBytes<kDim> + (swizzle << 4));
}
DEV_FN uint32_t chunk_of(uint32_t row, int chunk) { return row ^ static_cast<uint32_t>(chunk << 4); }

DEV_FN int lane_of() { return static_cast<int>(threadIdx.x) & 31; }
DEV_FN int warp_of() { return static_cast<int>(threadIdx.x) >> 5; }
// The lane's rows in its warp's C fragments are this one and the one 8 below; its copies are of these two rows too.
DEV_FN int fragment_row() { return warp_of() * 16 + (lane_of() >> 2); }

// Copies the warp's rows of a map into `tile`; zero where there is no token or no chunk. `source` is the map's first
// token, `offsets` the shared [64] byte offsets of the others.
template <int kDim>
DEV_FN void load_rows(uint32_t tile, const char* source, uint32_t offsets, int tokens, int chunks) {
  const int row = fragment_row(), quad = lane_of() & 3;
  const uint32_t offset[2] = {dev::lds<uint32_t>(offsets + row * 4), dev::lds<uint32_t>(offsets + row * 4 + 32)};
  const uint32_t to = row_of<kDim>(tile, row);
#pragma unroll
  for (int i = 0; i < kDim / 16; ++i) {
    const int below = (i & 1) * 8, chunk = quad + (i >> 1) * 4;
    dev::cp_async<16>(chunk_of(to, chunk) + below * kRowBytes<kDim>, source + (offset[i & 1] + chunk * 16),
                      row + below < tokens && chunk < chunks);
  }
}

// C fragments of 16 rows, rounded: two words for every 8 columns.
template <int kDim>
struct Rounded {
  uint32_t word[kDim / 8][2];
};

template <class T, int kDim>
DEV_FN Rounded<kDim> round_rows(const float (&sum)[kDim / 8][4], float factor, float factor_below) {
  Rounded<kDim> rows;
#pragma unroll
  for (int n = 0; n < kDim / 8; ++n) {
    rows.word[n][0] = dev::pack<T>(sum[n][0] * factor, sum[n][1] * factor);
    rows.word[n][1] = dev::pack<T>(sum[n][2] * factor_below, sum[n][3] * factor_below);
  }
  return rows;
}

// Writes 16 rows from `first` to a map, by way of shared memory of the warp's own, `staging` [16, kStagedDim]: memory
// wants 16 bytes of a row from a lane.
template <int kDim>
constexpr int kStagedDim = kDim < 64 ? kDim : 64;

template <int kDim>
DEV_FN void store_rows(const Rounded<kDim>& rows, int first, uint32_t staging, char* target, uint32_t offsets,
                       int tokens, int chunks) {
  constexpr int kStaged = kStagedDim<kDim>, kChunks = kStaged / 8;
  const int row = lane_of() >> 2, quad = lane_of() & 3;
  const uint32_t here = row_of<kStaged>(staging, row);
  const uint32_t at = offsets + (first + row) * 4;
  const uint32_t offset[2] = {dev::lds<uint32_t>(at), dev::lds<uint32_t>(at + 32)};
#pragma unroll
  for (int part = 0; part < kDim / kStaged; ++part) {
    dev::syncwarp();
#pragma unroll
    for (int n = 0; n < kChunks; ++n)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        dev::sts(chunk_of(here + quad * 4, n) + half * 8 * kRowBytes<kStaged>, rows.word[part * kChunks + n][half]);
    dev::syncwarp();
#pragma unroll
    for (int i = 0; i < kStaged / 16; ++i) {
      const int below = (i & 1) * 8, of_part = quad + (i >> 1) * 4, chunk = part * kChunks + of_part;
      const auto words = dev::lds<dev::u128>(chunk_of(here, of_part) + below * kRowBytes<kStaged>);
      if (first + row + below < tokens && chunk < chunks)
        dev::stg(reinterpret_cast<dev::u128*>(target + (offset[i & 1] + chunk * 16)), words);
    }
  }
}

// The A fragments of the warp's 16 rows, over head_dim.
template <int kDim>
DEV_FN void load_factor(uint32_t (&a)[kDim / 16][4], uint32_t tile) {
#pragma unroll
  for (int s = 0; s < kDim / 16; ++s)
    dev::ldmatrix_x4(a[s], chunk_of(row_of<kDim>(tile, warp_of() * 16 + (lane_of() & 15)), s * 2 + (lane_of() >> 4)));
}

// sum += A . rows^T, for 8 rows of `tile` from `first`.
template <class T, int kDim>
DEV_FN void multiply_transposed(float (&sum)[4], const uint32_t (&a)[kDim / 16][4], uint32_t tile, int first) {
#pragma unroll
  for (int s = 0; s < kDim / 32; ++s) {
    uint32_t b[4];
    dev::ldmatrix_x4(b,
                     chunk_of(row_of<kDim>(tile, lane_of() & 7), s * 4 + (lane_of() >> 3)) + first * kRowBytes<kDim>);
    dev::mma<T>(sum, a[2 * s], b[0], b[1]);
    dev::mma<T>(sum, a[2 * s + 1], b[2], b[3]);
  }
}

// sum += A . rows, for 16 rows of `tile` from `first`.
template <class T, int kDim>
DEV_FN void multiply(float (&sum)[kDim / 8][4], const uint32_t (&a)[4], uint32_t tile, int first) {
#pragma unroll
  for (int n = 0; n < kDim / 16; ++n) {
    uint32_t b[4];
    dev::ldmatrix_x4_trans(
        b, chunk_of(row_of<kDim>(tile, lane_of() & 15), n * 2 + (lane_of() >> 4)) + first * kRowBytes<kDim>);
    dev::mma<T>(sum[2 * n], a, b[0], b[1]);
    dev::mma<T>(sum[2 * n + 1], a, b[2], b[3]);
  }
}

}  // namespace natten_core::cuda::dense
