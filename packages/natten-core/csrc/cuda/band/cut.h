// How the host cuts a problem; see geometry.h.
#pragma once

#include "cuda/band/params.h"

namespace natten_core::cuda::band {

// The head_dim that kernels are made for: in tf32, which is how fp32 is multiplied, 32 and 64 alone.
inline int padded(const Problem& problem) {
  const int64_t head_dim = problem.head_dim;
  if (problem.dtype == DType::kFloat32) return head_dim <= 32 ? 32 : 64;
  return head_dim <= 16 ? 16 : head_dim <= 32 ? 32 : head_dim <= 64 ? 64 : 128;
}

// Bytes of a row of that head_dim.
inline int padded_bytes(const Problem& problem) { return padded(problem) * int(problem.element_bytes()); }

// For warps that read `columns` key columns, and strips of up to `most` column tiles.
inline Cut cut_of(const Problem& problem, int columns, int most = kMaxTiles) {
  Cut cut{};
  cut.extent_y = int(problem.extent[kY]), cut.extent_x = int(problem.extent[kX]);
  cut.dilation_y = int(problem.dilation[kY]), cut.dilation_x = int(problem.dilation[kX]);
  cut.kernel_y = int(problem.kernel[kY]), cut.kernel_x = int(problem.kernel[kX]);
  cut.batch = int(problem.batch), cut.batch_per_block = 1;
  const int length_y = int(ceil_div(cut.extent_y, cut.dilation_y));
  const int length_x = int(ceil_div(cut.extent_x, cut.dilation_x));
  const int tiles = int(ceil_div(length_x, kTileX));
  cut.strips = int(ceil_div(tiles, most));
  cut.tiles = int(ceil_div(tiles, cut.strips));
  cut.bands = 1, cut.band_rows = int(ceil_div(length_y, kTileY)) * kTileY;
  // The last warp's keys begin at most (tiles - 1) tiles after the first's, or before it by what borders move.
  cut.shared_columns = int(max_of(columns, min_of(length_x, cut.tiles * kTileX + columns - kTileX)));
  // Residue maps may have two lengths.
  for (int length = length_x; length >= length_x - 1 && length >= cut.kernel_x; --length) {
    const Map map{length_y, length, cut.kernel_y, cut.kernel_x};
    for (int strip = 0; strip < cut.strips; ++strip) {
      const int x = strip * cut.tiles * kTileX;
      cut.tables = int(max_of(cut.tables, border_tables(map, x, cut.tiles, columns) + 1));
    }
  }
  return cut;
}

// Chooses samples per block, or bands per map, for a device that holds `slots` blocks at a time: what takes the fewest
// waves of blocks, each as long as its rows. To start a block costs about `start` rows more: bias tables, and the rows
// of the first window, which nothing overlaps.
inline void fill_device(Cut& cut, const Problem& problem, int64_t slots) {
  const int64_t maps = problem.heads * cut.dilation_y * cut.dilation_x * cut.strips, rows = cut.band_rows;
  const int64_t start = cut.kernel_y + 3;
  int64_t best = INT64_MAX;
  const auto consider = [&](int64_t samples, int64_t bands) {
    const int64_t band_rows = ceil_div(ceil_div(rows, bands), kTileY) * kTileY, count = ceil_div(rows, band_rows);
    const int64_t blocks = maps * count * ceil_div(cut.batch, samples);
    // A band begins with the rows of a whole window, a sample after the first without the tables.
    const int64_t cost = ceil_div(blocks, slots) * (samples * (band_rows + cut.kernel_y / 2) + start);
    if (cost >= best) return;
    best = cost;
    cut.batch_per_block = int(samples), cut.bands = int(count), cut.band_rows = int(band_rows);
  };
  for (int64_t samples = 1; samples <= min_of(cut.batch, 64); ++samples) consider(samples, 1);
  for (int64_t bands = 2; bands <= ceil_div(rows, 8); ++bands) consider(1, bands);
}

// Bytes of shared memory that the forward needs at least, with strips of one column tile: see ForwardShape.
inline int64_t least_forward_shared(const Problem& problem) {
  const bool wide = problem.kernel[kX] > 9;
  const int64_t tiles = wide || problem.kernel[kY] > 9 ? 3 : 2;
  const int64_t kernel = max_of(problem.kernel[kY], wide ? 11 : 3) / 2 * 2 + 1;  // rounded up to an odd one
  const int64_t slots = kernel + 1 + kTileY * ahead(int(problem.element_bytes()));
  return 2 * slots * tiles * 8 * padded_bytes(problem) + 2 * (2 * kernel + 1) * tiles * 256 + 64;
}

}  // namespace natten_core::cuda::band
