// The forward kernel: see docs/kernels/cuda-band.md.
//
// A block takes a box of queries in one plane of one head, and then the same box of the next planes. Its last warp
// streams what the box sees of each plane of keys through shared memory; the others take a few key rows at a time, with
// a softmax that rescales what it has only for scores that are much larger than all before.
#pragma once

#include "cuda/band/products.h"
#include "cuda/box/block.h"
#include "cuda/box/load_keys.h"
#include "cuda/device/primitives.h"

namespace natten_core::cuda::box {

constexpr int kAtOnce = 2;  // key rows
constexpr float kMostGrowth = 8.f;  // weights of up to 2^8 do no harm to sums in fp32

// The softmax and output of 16 queries, as a warp holds them: [0] for the lane's query of the upper half.
template <int D>
struct ForwardState {
  float output[D / 8][4] = {};
  float base[2] = {-INFINITY, -INFINITY};  // what scores, in base 2, are reduced by
  float sum[2] = {0.f, 0.f};  // of the lane's keys
};

// What a lane knows of its warp's tile.
template <class T, class S, int D>
struct ForwardTile {
  static constexpr int kTiles = S::kTiles, kAll = kAtOnce * kTiles, kRow = band::kHalves<T, D>;
  static constexpr int kStep = 8 * band::kRowBytes<T, D>;  // bytes of 8 columns
  using Queries = band::RowPair<kRow>;

  band::RowOffsets<kRow> key_offsets;  // in a row of the stage, of the lane's key of the first n-tile
  band::ColumnOffsets<T, D> value_offsets;  // likewise, for products with values
  BiasColumns<kTiles> columns;
  uint32_t hidden;  // the row of biases that are all -inf
  int bias_row_bytes, kernel_y;
  int shift;  // by how many rows the windows of the lower half begin after those of the upper
  float scale_log2;

  // Key rows j ... of the tile; the stage has the first at `keys` and `values`, the table of biases at `biases`.
  DEV_FN void take(ForwardState<D>& state, const Queries& queries, uint32_t keys, uint32_t values, uint32_t row_bytes,
                   int j, uint32_t biases) const {
    float score[kAll][4];
#pragma unroll
    for (int a = 0; a < kAtOnce; ++a) {
      const int row = j + a;
      const uint32_t at = biases + uint32_t(a * bias_row_bytes);
      const uint32_t for_upper = row < kernel_y ? at : hidden;
      const uint32_t for_lower = row >= shift && row < kernel_y + shift ? at - uint32_t(bias_row_bytes) : hidden;
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        float (&s)[4] = score[a * kTiles + t];
        columns.of_keys(s, for_upper, t), columns.of_keys(s + 2, for_lower, t);
        const uint32_t key = keys + uint32_t(a) * row_bytes + uint32_t(t * kStep);
        band::multiply_rows<T>(s, queries, band::load_shared_row(key, key_offsets));
      }
    }
    weigh(state, score);

    multiply_values(state, score, values, row_bytes);
  }

 private:
  // Adds the weighted values of the key rows from `values` on.
  DEV_FN void multiply_values(ForwardState<D>& state, const float (&weight)[kAll][4], uint32_t values,
                              uint32_t row_bytes) const {
    const auto at = [&](int n) { return values + uint32_t(n / kTiles) * row_bytes + uint32_t(n % kTiles * kStep); };
    if constexpr (dev::is_16_bit<T>) {
      static_assert(kAll % 2 == 0, "the products with values take pairs of n-tiles");
      const bool odd = threadIdx.x & 8;  // the lane addresses keys of the pair's second n-tile
#pragma unroll
      for (int n = 0; n < kAll; n += 2) {
        const uint32_t of_pair = kTiles % 2 && odd ? at(n + 1) - kStep : at(n);
        band::add_product<T, D>(state.output, band::Factor<T>(weight[n], weight[n + 1]), of_pair, value_offsets.pair);
      }
    } else {
#pragma unroll
      for (int n = 0; n < kAll; ++n) band::add_tile<T, D>(state.output, weight[n], at(n), value_offsets);
    }
  }

  // Turns scores into weights. Every query sees a key of the first rows that are taken, so that bases are finite.
  DEV_FN void weigh(ForwardState<D>& state, float (&score)[kAll][4]) const {
    float most[2];
    bool grows = false;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      most[h] = dev::max(score[0][2 * h], score[0][2 * h + 1]);
#pragma unroll
      for (int n = 1; n < kAll; ++n) most[h] = dev::max(most[h], dev::max(score[n][2 * h], score[n][2 * h + 1]));
      grows |= most[h] * scale_log2 > state.base[h] + kMostGrowth;
    }
    if (dev::any(grows)) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        most[h] = dev::max(most[h], dev::shfl_xor(most[h], 1));
        most[h] = dev::max(most[h], dev::shfl_xor(most[h], 2));
        const float base = dev::max(state.base[h], most[h] * scale_log2), factor = dev::ex2(state.base[h] - base);
        state.base[h] = base, state.sum[h] *= factor;
#pragma unroll
        for (int n = 0; n < D / 8; ++n) state.output[n][2 * h] *= factor, state.output[n][2 * h + 1] *= factor;
      }
    }
#pragma unroll
    for (int n = 0; n < kAll; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        score[n][i] = dev::ex2(dev::fma(score[n][i], scale_log2, -state.base[i >> 1]));
        state.sum[i >> 1] += score[n][i];
      }
  }
};

template <class T, class S, int D>
DEV_KERNEL((kMaxTiles + 1) * 32, band::kHalves<T, D> <= 32 ? 2 : 1)
forward_kernel(const ForwardParams<T> p) {
  constexpr int kRow = band::kHalves<T, D>;
  const int head = int(blockIdx.x);
  const Part part = part_of(p.cut, int(blockIdx.y), int(blockIdx.z));
  const Map& map = part.map;
  if (part.y >= map.length[kY] || part.x >= map.length[kX] || part.unit >= part.unit_end) return;

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
  const ForwardTile<T, S, D> tile{band::RowOffsets<kRow>(column + group, quad_lane),
                                  band::ColumnOffsets<T, D>(column, lane),
                                  BiasColumns<S::kTiles>::of_query(map, at.column, key_x + quad_lane * 2),
                                  table,
                                  row_bytes,
                                  kernel_y,
                                  start(map, kY, at.row[1]) - key_y,
                                  p.scale * dev::kLog2e};
  const uint32_t tile_row = uint32_t(key_y - first_row) * stages.row_bytes();
  const int relative_row = key_y - at.y + kernel_y - 1, rows = key_rows(kernel_y);
  const Steps query_steps(p.query, p.cut), output_steps(p.output, p.cut), lse_steps(p.lse, p.cut);

  int step = 0;
  for (int unit = part.unit; unit < part.unit_end; ++unit) {
    const int sample = unit / map.length[kZ], z = unit % map.length[kZ];
    const T* query = plane_of(p.query, p.cut, part, sample, z, head);
    band::RowWords<kRow> words[2];
#pragma unroll
    for (int h = 0; h < 2; ++h)
      words[h] = band::load_row<kRow>(query + query_steps.at(part, at.row[h], at.column), p.head_dim, quad_lane);
    const band::RowPair<kRow> queries(band::factors<T>(words[0]), band::factors<T>(words[1]));
    ForwardState<D> state;
    int relative_plane = start(map, kZ, z) - z + map.kernel[kZ] - 1;
    for (int plane = 0; plane < map.kernel[kZ]; ++plane, ++relative_plane, ++step) {
      uint32_t keys = stages.first(stages.of(step)) + tile_row;
      uint32_t biases = table + uint32_t((1 + relative_plane * relative_rows + relative_row) * row_bytes);
      signals.wait_loaded(step);
#pragma unroll 1
      for (int j = 0; j < rows; j += kAtOnce) {
        tile.take(state, queries, keys, keys + stages.half(), stages.row_bytes(), j, biases);
        keys += uint32_t(kAtOnce) * stages.row_bytes(), biases += uint32_t(kAtOnce * row_bytes);
      }
      signals.set_done(step, lane);
    }

    T* output = plane_of(p.output, p.cut, part, sample, z, head);
    float* lse = plane_of(p.lse, p.cut, part, sample, z, head);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float sum = state.sum[h];
      sum += dev::shfl_xor(sum, 1);
      sum += dev::shfl_xor(sum, 2);
      const float inverse = dev::rcp(sum);
      uint32_t to[kRow / 8];
      band::to_row<T, D>(to, state.output, h, inverse, quad_lane);
      if (!at.present[h]) continue;
      band::store_row<kRow>(output + output_steps.at(part, at.row[h], at.column), to, p.head_dim, quad_lane);
      if (quad_lane == 0)
        dev::stg(lse + lse_steps.at(part, at.row[h], at.column), (state.base[h] + dev::lg2(sum)) * dev::kLn2);
    }
  }
}

}  // namespace natten_core::cuda::box
