// The query-major pass of the backward: the gradients of queries and bias; see docs/kernels/cuda-band.md.
//
// The walk of the forward kernel. With the log-sum-exp known, one key row at a time gives final weights. On the way,
// delta is found for the key-major pass.
#pragma once

#include "cuda/band/backward_bias.h"
#include "cuda/band/backward_ring.h"
#include "cuda/band/products.h"
#include "cuda/box/backward_params.h"
#include "cuda/box/block.h"
#include "cuda/box/load_keys.h"

namespace natten_core::cuda::box {

// What a lane knows of its warp's tile.
template <class T, class S, int D>
struct QueryTile {
  static constexpr int kTiles = S::kTiles, kRow = band::kHalves<T, D>;
  static constexpr int kStep = 8 * band::kRowBytes<T, D>;  // bytes of 8 columns

  band::RowOffsets<kRow> key_offsets;  // in a row of the stage, of the lane's key of the first n-tile
  band::ColumnOffsets<T, D> column_offsets;  // likewise, for products over keys
  BiasColumns<kTiles> columns;
  uint32_t hidden;  // the row of biases that are all -inf
  int bias_row_bytes, kernel_y;
  int shift;  // by how many rows the windows of the lower queries begin after those of the upper
  bool lower_first;  // whether the lower queries see the first key row, at a relative row that the upper ones have not
  bool has_grad;  // of the bias
  float scale_log2;
  band::BiasSums<kTiles> sums = {};

  struct Queries {
    band::RowPair<kRow> query, grad;
    float lse[2];  // negated, in base 2
    float delta[4];  // negated, as an accumulator
  };
  struct Previous {
    float grad[kTiles][2] = {};  // bias gradients of the upper queries in the previous key row
  };

  // Key row `row` of the tile, which the stage has at `keys` and `values`; its biases, and the sums of their gradients,
  // are at `biases` and `relative_row` for the upper queries.
  DEV_FN void take(float (&grad_query)[D / 8][4], Previous& previous, const Queries& q, uint32_t keys, uint32_t values,
                   int row, uint32_t biases, int relative_row) const {
    const uint32_t upper = row < kernel_y ? biases : hidden;
    const uint32_t lower = row >= shift && row < kernel_y + shift ? biases - uint32_t(bias_row_bytes) : hidden;
#pragma unroll
    for (int t = 0; t < kTiles; t += 2) {  // products over keys take two n-tiles
      const uint32_t key = keys + uint32_t(t * kStep), value = values + uint32_t(t * kStep);
      float first[4], second[4];
      differentiate(first, q, key, value, t, upper, lower, previous);
      if (t + 1 == kTiles) {
        band::add_tile<T, D>(grad_query, first, key, column_offsets);
      } else {
        differentiate(second, q, key + kStep, value + kStep, t + 1, upper, lower, previous);
        band::add_tiles<T, D>(grad_query, first, second, key, column_offsets);
      }
    }
    if (has_grad && (row == 0 ? lower_first : row <= kernel_y)) sums.add_put(relative_row - 1);
  }

 private:
  // Score gradients of the n-tile t, of keys and values at `key` and `value`.
  DEV_FN void differentiate(float (&grad)[4], const Queries& q, uint32_t key, uint32_t value, int t, uint32_t upper,
                            uint32_t lower, Previous& previous) const {
    float score[4];
    columns.of_keys(score, upper, t), columns.of_keys(score + 2, lower, t);
    band::multiply_rows<T>(score, q.query, band::load_shared_row(key, key_offsets));
    band::multiply_rows_from<T>(grad, q.delta, q.grad, band::load_shared_row(value, key_offsets));
#pragma unroll
    for (int i = 0; i < 4; ++i) grad[i] *= dev::ex2(dev::fma(score[i], scale_log2, q.lse[i >> 1]));
    if (!has_grad) return;
    // What the upper queries had in the row before has the relative row of what the lower ones have in this.
    float (&before)[2] = previous.grad[t];
    sums.put(t, before[0] + grad[2], before[1] + grad[3]);
    before[0] = grad[0], before[1] = grad[1];
  }
};

template <class T, class S, int D>
DEV_KERNEL((kMaxTiles + 1) * 32, band::backward_warps(band::kHalves<T, D>, S::kTiles) == 16 ? 2 : 1)
query_pass(const QueryPassParams<T> p) {
  constexpr int kRow = band::kHalves<T, D>;
  const int head = int(blockIdx.x);
  const Part part = part_of(p.cut, int(blockIdx.y), int(blockIdx.z));
  const Map& map = part.map;
  const int entries = relative_positions(map.kernel);
  float* const grad_rpb =
      p.grad_rpb + ((int64_t(blockIdx.z) * gridDim.y + blockIdx.y) * p.heads + head) * (p.grad_rpb ? entries : 0);
  if (part.y >= map.length[kY] || part.x >= map.length[kX] || part.unit >= part.unit_end) {
    if (p.grad_rpb)
      for (int e = int(threadIdx.x); e < entries; e += int(blockDim.x)) dev::stg(grad_rpb + e, 0.f);
    return;
  }

  DEV_SMEM(shared);
  const Block<T, D> block(p.cut, part, shared, false);
  const auto& [warp, lane, group, quad_lane, tiles, stages, signals] = block;
  const uint32_t table = block.table();
  const int kernel_y = map.kernel[kY], relative_rows = 2 * kernel_y - 1;
  if (threadIdx.x == 0) signals.start(tiles.warps());
  block.fill(map.kernel, p.rpb, head, p.scale, int(blockDim.x));
  dev::syncthreads();

  const int first_row = start(map, kY, part.y), first_x = band::first_column(flat(map), part.x, S::kColumns);
  if (block.loads(p.cut)) return load_keys<T, D>(p, part, stages, signals, head / p.group, first_row, first_x);
  if (warp >= tiles.warps()) return;

  const Tile at(part, tiles, warp, group);
  const int key_y = start(map, kY, at.y), key_x = band::first_column(flat(map), at.x, S::kColumns);
  const int column = key_x - first_x, row_bytes = bias_row_bytes(map.kernel[kX]);
  const int relative_row = key_y - at.y + kernel_y - 1, shift = start(map, kY, at.row[1]) - key_y;
  QueryTile<T, S, D> tile{band::RowOffsets<kRow>(column + group, quad_lane),
                          band::ColumnOffsets<T, D>(column, lane),
                          BiasColumns<S::kTiles>::of_query(map, at.column, key_x + quad_lane * 2),
                          table,
                          row_bytes,
                          kernel_y,
                          shift,
                          shift == 0 && relative_row > 0,
                          p.grad_rpb != nullptr,
                          p.scale * dev::kLog2e};
  const uint32_t all_sums = block.end(map.kernel), one_sums = uint32_t(sums_bytes(map.kernel));
  if (tile.has_grad) {
    const uint32_t own = all_sums + uint32_t(warp) * one_sums;
    tile.sums.set(own, own + band::kScratchNext * 4, (2 * map.kernel[kZ] - 1) * relative_rows, map.kernel[kX], lane,
                  at.x, key_x);
  }
  const uint32_t tile_row = uint32_t(key_y - first_row) * stages.row_bytes();

  int step = 0;
  for (int unit = part.unit; unit < part.unit_end; ++unit) {
    const int sample = unit / map.length[kZ], z = unit % map.length[kZ];
    band::RowWords<kRow> query[2], grad[2], output[2];
    float lse[2], grad_lse[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const auto row = [&](const auto& view) { return at.of(view, p.cut, part, sample, z, head, h); };
      query[h] = band::load_row<kRow>(row(p.query), p.head_dim, quad_lane, at.present[h]);
      grad[h] = band::load_row<kRow>(row(p.grad_output), p.head_dim, quad_lane, at.present[h]);
      output[h] = band::load_row<kRow>(row(p.output), p.head_dim, quad_lane, at.present[h]);
      lse[h] = at.present[h] ? dev::ldg(row(p.lse)) : INFINITY;  // what is not in the map gets no weight
      grad_lse[h] = at.present[h] && p.grad_lse.data ? dev::ldg(row(p.grad_lse)) : 0.f;
    }
    typename QueryTile<T, S, D>::Queries q{{band::factors<T>(query[0]), band::factors<T>(query[1])},
                                           {band::factors<T>(grad[0]), band::factors<T>(grad[1])},
                                           {},
                                           {}};
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      q.delta[2 * h] = grad_lse[h] - band::own_product<T>(q.grad, output[h], h, lane);
      q.delta[2 * h + 1] = band::distinct(q.delta[2 * h]);
      q.lse[h] = lse[h] * -dev::kLog2e;
    }
    // Of a quad's lanes each writes one of the four numbers.
    const bool lower = quad_lane & 2;
    if (lower ? at.present[1] : at.present[0]) {
      const int64_t to = p.statistics.row(p.cut, part, sample, p.heads, head, z, lower ? at.row[1] : at.row[0]);
      const float upper_number = lane & 1 ? q.delta[0] : q.lse[0], lower_number = lane & 1 ? q.delta[2] : q.lse[1];
      dev::stg(p.statistics.data + to + (lane & 1) * p.statistics.length_x + at.column,
               lower ? lower_number : upper_number);
    }

    float sum[D / 8][4] = {};
    int relative_plane = start(map, kZ, z) - z + map.kernel[kZ] - 1;
    for (int plane = 0; plane < map.kernel[kZ]; ++plane, ++relative_plane, ++step) {
      uint32_t keys = stages.first(stages.of(step)) + tile_row;
      int relative = relative_plane * relative_rows + relative_row;
      uint32_t biases = table + uint32_t((1 + relative) * row_bytes);
      typename QueryTile<T, S, D>::Previous previous;
      signals.wait_loaded(step);
#pragma unroll 1
      for (int row = 0; row <= kernel_y; ++row, ++relative) {
        tile.take(sum, previous, q, keys, keys + stages.half(), row, biases, relative);
        keys += stages.row_bytes(), biases += uint32_t(row_bytes);
      }
      signals.set_done(step, lane);
    }

#pragma unroll
    for (int h = 0; h < 2; ++h) {
      uint32_t words[kRow / 8];
      band::to_row<T, D>(words, sum, h, p.scale, quad_lane);
      if (!at.present[h]) continue;
      band::store_row<kRow>(at.of(p.grad_query, p.cut, part, sample, z, head, h), words, p.head_dim, quad_lane);
    }
  }
  if (!tile.has_grad) return;
  dev::bar_sync(1, tiles.warps() * 32);
  for (int e = int(threadIdx.x); e < entries; e += tiles.warps() * 32) {
    float total = 0.f;
    for (int w = 0; w < tiles.warps(); ++w)
      total += dev::lds<float>(all_sums + uint32_t(w) * one_sums + uint32_t((band::kScratchNext + e) * 4));
    dev::stg(grad_rpb + e, total);
  }
}

}  // namespace natten_core::cuda::box
