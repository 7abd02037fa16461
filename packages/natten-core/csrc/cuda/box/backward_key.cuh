// The key-major pass of the backward: the gradients of keys and values; see docs/kernels/cuda-band.md.
//
// The walk of the forward kernel with the roles exchanged: a warp holds a tile of keys and values, and what sees them
// of each plane of queries comes through the stages, with the gradients of their outputs and their statistics. Scores
// are transposed, [keys, queries], so that they are factors of both gradients without any shuffle.
#pragma once

#include "cuda/band/backward_key_sums.h"
#include "cuda/band/backward_ring.h"
#include "cuda/box/backward_params.h"
#include "cuda/box/block.h"

namespace natten_core::cuda::box {

template <class T, class S, class R, int D>
struct KeyTile {
  static constexpr int kTiles = S::kTiles, kRow = band::kHalves<T, D>;
  static constexpr int kStep = 8 * band::kRowBytes<T, D>;  // bytes of 8 columns
  using Sums = band::KeySums<R, D>;

  struct Keys {
    band::RowPair<kRow> key, value;  // no value where the gradient of keys is not asked for
  };
  // Where the stage has a row of queries, of their outputs' gradients, and of their statistics.
  struct Row {
    uint32_t query, output, statistics;
  };

  band::RowOffsets<kRow> query_offsets;  // in a row, of the lane's query of the first n-tile
  band::ColumnOffsets<T, D> column_offsets;  // likewise, for products over queries
  BiasColumns<kTiles> columns;
  uint32_t hidden;  // the row of biases that are all -inf
  int bias_row_bytes;
  uint32_t delta;  // bytes from a row's log-sum-exps to its deltas
  float scale_log2;

  // The query row that the stage has at `row`; the biases of the upper keys are at `upper`, of the lower at `lower`.
  DEV_FN void take(Sums& sums, const Keys& k, const Row& row, uint32_t upper, uint32_t lower) const {
#pragma unroll
    for (int t = 0; t < kTiles; t += 2) {  // products over queries take two n-tiles
      float weight[2][4], grad[2][4];
      weigh(weight[0], grad[0], k, row, t, upper, lower);
      const uint32_t query = row.query + uint32_t(t * kStep), output = row.output + uint32_t(t * kStep);
      if (t + 1 == kTiles) {
        if constexpr (R::kValue) band::add_tile<T, D>(sums.value, weight[0], output, column_offsets);
        if constexpr (R::kKey) band::add_tile<T, D>(sums.key, grad[0], query, column_offsets);
      } else {
        weigh(weight[1], grad[1], k, row, t + 1, upper, lower);
        if constexpr (R::kValue) band::add_tiles<T, D>(sums.value, weight[0], weight[1], output, column_offsets);
        if constexpr (R::kKey) band::add_tiles<T, D>(sums.key, grad[0], grad[1], query, column_offsets);
      }
    }
  }

 private:
  // Weights and score gradients of the n-tile t.
  DEV_FN void weigh(float (&weight)[4], float (&grad)[4], const Keys& k, const Row& row, int t, uint32_t upper,
                    uint32_t lower) const {
    float score[4];
    columns.of_queries(score, upper, t), columns.of_queries(score + 2, lower, t);
    band::multiply_rows<T>(score, k.key, band::load_shared_row(row.query + uint32_t(t * kStep), query_offsets));
    const auto lse = dev::lds<dev::vec<float, 2>>(row.statistics + uint32_t(t * 32));
#pragma unroll
    for (int i = 0; i < 4; ++i) weight[i] = dev::ex2(dev::fma(score[i], scale_log2, lse[i & 1]));
    if constexpr (R::kKey) {
      const auto deltas = dev::lds<dev::vec<float, 2>>(row.statistics + uint32_t(t * 32) + delta);
      grad[0] = grad[2] = deltas[0], grad[1] = grad[3] = deltas[1];
      const auto output = band::load_shared_row(row.output + uint32_t(t * kStep), query_offsets);
      band::multiply_rows<T>(grad, k.value, output);
#pragma unroll
      for (int i = 0; i < 4; ++i) grad[i] *= weight[i];
    }
  }
};

// The warp that loads.
template <class T, int D>
DEV_FN void load_queries(const KeyPassParams<T>& p, const Part& part, const Stages<T, D>& stages,
                         const band::Signals& signals, int key_head, int row, int rows, int column) {
  const Steps query_steps(p.query, p.cut), output_steps(p.grad_output, p.cut);
  const int lane = int(threadIdx.x & 31), present = part.map.length[kX] - column;
  int step = 0;
  for (int unit = part.unit; unit < part.unit_end; ++unit) {
    const int sample = unit / part.map.length[kZ], key_z = unit % part.map.length[kZ];
    const int begin = first_query(part.map, kZ, key_z), end = end_query(part.map, kZ, key_z);
    for (int head = key_head * p.group; head < (key_head + 1) * p.group; ++head)
      for (int z = begin; z < end; ++z, ++step) {
        if (step >= stages.stages) signals.wait_done(step - stages.stages);
        stages.load(stages.of(step), part, plane_of(p.query, p.cut, part, sample, z, head), query_steps,
                    plane_of(p.grad_output, p.cut, part, sample, z, head), output_steps, row, rows, column, p.head_dim);
        const float* from = p.statistics.data + p.statistics.row(p.cut, part, sample, p.heads, head, z, row) + column;
        for (int r = 0; r < rows; ++r, from += 2 * p.statistics.length_x)
          for (int c = lane; c < stages.columns; c += 32) {
            const uint32_t to = stages.statistics(stages.of(step), r) + uint32_t(c * 4);
            const bool valid = c < present;
            const float* const a = valid ? from + c : p.statistics.data;
            dev::cp_async<4>(to, a, valid);
            dev::cp_async<4>(to + uint32_t(stages.columns * 4), valid ? a + p.statistics.length_x : a, valid);
          }
        signals.will_load(step);
      }
  }
}

template <class T, class S, class R, int D>
DEV_KERNEL((kMaxTiles + 1) * 32, band::backward_warps(band::kHalves<T, D>, S::kTiles) == 16 ? 2 : 1)
key_pass(const KeyPassParams<T> p) {
  constexpr int kRow = band::kHalves<T, D>;
  const int key_head = int(blockIdx.x);
  Part part = part_of(p.cut, int(blockIdx.y), int(blockIdx.z));
  part.x += p.origin[part.residue[kX] >= p.cut.extent[kX] % p.cut.dilation[kX]];
  const Map& map = part.map;
  if (part.y >= map.length[kY] || part.x >= map.length[kX] || part.unit >= part.unit_end) return;

  DEV_SMEM(shared);
  const Block<T, D> block(p.cut, part, shared, true);
  const auto& [warp, lane, group, quad_lane, tiles, stages, signals] = block;
  const uint32_t table = block.table();
  const int kernel_y = map.kernel[kY], relative_rows = 2 * kernel_y - 1;
  if (threadIdx.x == 0) signals.start(tiles.warps());
  block.fill(map.kernel, p.rpb, key_head * p.group, p.scale, int(blockDim.x));
  dev::syncthreads();

  const int first_row = band::seen_begin_y(flat(map), part.y);
  const int first_x = band::first_query_column(flat(map), part.x, S::kColumns);
  if (block.loads(p.cut)) {
    const int rows = band::seen_end_y(flat(map), part.y + (tiles.y - 1) * kTileY) - first_row;
    return load_queries<T, D>(p, part, stages, signals, key_head, first_row, rows, first_x);
  }
  if (warp >= tiles.warps()) return;

  const Tile at(part, tiles, warp, group);
  const int query_x = band::first_query_column(flat(map), at.x, S::kColumns), column = query_x - first_x;
  const int begin = band::seen_begin_y(flat(map), at.y), end = band::seen_end_y(flat(map), at.y);
  using Own = KeyTile<T, S, R, D>;
  const Own tile{band::RowOffsets<kRow>(column + group, quad_lane),
                 band::ColumnOffsets<T, D>(column, lane),
                 BiasColumns<S::kTiles>::of_key(map, at.x + group, query_x + quad_lane * 2),
                 table,
                 bias_row_bytes(map.kernel[kX]),
                 uint32_t(stages.columns * 4),
                 p.scale * dev::kLog2e};

  int step = 0;
  for (int unit = part.unit; unit < part.unit_end; ++unit) {
    const int sample = unit / map.length[kZ], key_z = unit % map.length[kZ];
    band::RowWords<kRow> keys[2], values[2] = {};
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const auto row = [&](const auto& view) { return at.of(view, p.cut, part, sample, key_z, key_head, h); };
      keys[h] = band::load_row<kRow>(row(p.key), p.head_dim, quad_lane, at.present[h]);
      if (R::kKey) values[h] = band::load_row<kRow>(row(p.value), p.head_dim, quad_lane, at.present[h]);
    }
    const typename Own::Keys k{{band::factors<T>(keys[0]), band::factors<T>(keys[1])},
                               {band::factors<T>(values[0]), band::factors<T>(values[1])}};
    typename Own::Sums sums;
    const int first_z = first_query(map, kZ, key_z), end_z = end_query(map, kZ, key_z);
    for (int member = 0; member < p.group; ++member) {
      if (p.group > 1 && p.rpb && step > 0) {
        dev::bar_sync(1, tiles.warps() * 32);
        block.fill(map.kernel, p.rpb, key_head * p.group + member, p.scale, tiles.warps() * 32);
        dev::bar_sync(1, tiles.warps() * 32);
      }
      for (int z = first_z; z < end_z; ++z, ++step) {
        const int relative = (key_z - z + map.kernel[kZ] - 1) * relative_rows + at.y + kernel_y - 1;
        signals.wait_loaded(step);
#pragma unroll 1
        for (int row = begin; row < end; ++row) {
          const int window = start(map, kY, row), in_stage = row - first_row;
          const uint32_t query = stages.first(stages.of(step)) + uint32_t(in_stage) * stages.row_bytes();
          const uint32_t numbers =
              stages.statistics(stages.of(step), in_stage) + uint32_t((column + quad_lane * 2) * 4);
          const uint32_t biases = table + uint32_t((1 + relative - row) * tile.bias_row_bytes);
          const auto seen = [&](int y) { return y >= window && y < window + kernel_y; };
          tile.take(sums, k, {query, query + stages.half(), numbers}, seen(at.y) ? biases : tile.hidden,
                    seen(at.y + 1) ? biases + uint32_t(tile.bias_row_bytes) : tile.hidden);
        }
        signals.set_done(step, lane);
      }
    }

#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const auto row = [&](const auto& view) { return at.of(view, p.cut, part, sample, key_z, key_head, h); };
      sums.template store<T>(h, p.scale, at.present[h], row(p.grad_key), row(p.grad_value), p.head_dim, quad_lane);
    }
  }
}

}  // namespace natten_core::cuda::box
