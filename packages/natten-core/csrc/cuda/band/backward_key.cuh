// The key-major pass of the backward: the gradients of keys and values; see docs/kernels/cuda-band.md.
//
// The march of the forward kernel with the roles exchanged: a warp holds 2 rows x 8 columns of keys and values, and the
// rows of queries that see them stream through the ring, with the gradients of their outputs and their statistics.
// Scores are transposed, [keys, queries], so that they are factors of both gradients without any shuffle.
#pragma once

#include "cuda/band/backward_geometry.h"
#include "cuda/band/backward_params.h"
#include "cuda/band/backward_ring.h"
#include "cuda/band/backward_table.h"

namespace natten_core::cuda::band {

// kFixed: exactly 7 rows; then the steps away from borders have their 8 query rows unrolled.
template <int kTiles_, bool kFixed_, int D>
struct KeyShape {
  static constexpr int kTiles = kTiles_;
  static constexpr bool kFixed = kFixed_;
  static constexpr int kRows = 8;
  static constexpr int kColumns = kTiles * 8;
  static constexpr int kAtOnce = kTiles == 3 ? 2 : 1;  // query rows; products over queries take pairs of n-tiles
  using Table = BackwardTable<kTiles>;
};

template <class T, class Shape, int D>
struct KeyTile {
  static constexpr int kTiles = Shape::kTiles, kAll = Shape::kAtOnce * kTiles;
  static constexpr int kStep = 16 * D;  // bytes of 8 columns

  BackwardRing<T, D> ring;
  RowOffsets<D> query_offsets;  // in a row of the ring, of the lane's query of the first n-tile
  uint32_t query_offset;  // likewise, of its address for ldmatrix
  uint32_t statistics;  // [slots, 2, columns], at the lane's column of the first n-tile as an accumulator's column
  int lane;
  float scale_log2;
  Map map;
  typename Shape::Table table;

  struct Keys {
    RowPair<D> key, value;
  };
  struct Sums {
    float key[D / 8][4] = {}, value[D / 8][4] = {};
  };

  // What the upper key row had for the previous query row: the lower one has it for this.
  struct Previous {
    bool seen = false;
    float bias[kTiles][2];

    DEV_FN Previous() {
#pragma unroll
      for (int t = 0; t < kTiles; ++t) bias[t][0] = bias[t][1] = -INFINITY;
    }
  };

  // Weights and score gradients of the query row that the ring has at `at`; `upper` are the biases of the upper key
  // row.
  DEV_FN void weigh(float (*weight)[4], float (*grad)[4], const Keys& k, uint32_t at, uint32_t upper,
                    float (&lower)[kTiles][2]) const {
    const uint32_t row_statistics = statistics + at / (D / 4);
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      const auto bias = dev::lds<dev::vec<float, 2>>(upper + uint32_t(t * 256));
      float score[4] = {bias[0], bias[1], lower[t][0], lower[t][1]};
      lower[t][0] = bias[0], lower[t][1] = bias[1];
      const auto query = load_shared_row<D>(ring.first + at + uint32_t(t * kStep), query_offsets);
      multiply_rows<T, D>(score, k.key, query);
      const auto lse = dev::lds<dev::vec<float, 2>>(row_statistics + uint32_t(t * 32));
      const auto delta = dev::lds<dev::vec<float, 2>>(row_statistics + uint32_t(t * 32 + ring.columns * 4));
      float (&w)[4] = weight[t];
      float (&g)[4] = grad[t];
      g[0] = g[2] = delta[0], g[1] = g[3] = delta[1];
      const auto output = load_shared_row<D>(ring.second + at + uint32_t(t * kStep), query_offsets);
      multiply_rows<T, D>(g, k.value, output);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        w[i] = dev::ex2(dev::fma(score[i], scale_log2, lse[i & 1]));
        g[i] *= w[i];
      }
    }
  }

  // Query rows `row` ... before `end`, for the key rows y and y + 1. The ring has them at row_at.
  DEV_FN void take(Sums& sums, Previous& previous, const Keys& k, const uint32_t (&row_at)[Shape::kAtOnce], int y,
                   int row, int end) const {
    float weight[kAll][4], grad[kAll][4];
#pragma unroll
    for (int a = 0; a < Shape::kAtOnce; ++a) {
      const int begin = start_y(map, row + a), relative = y - row - a + map.kernel_y - 1;
      const bool there = row + a < end;
      const bool upper_seen = there && y >= begin && y < begin + map.kernel_y;
      const bool lower_seen = there && y + 1 >= begin && y + 1 < begin + map.kernel_y;
      if (lower_seen != previous.seen) {  // at borders, and where either begins or ends
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
          const auto bias =
              dev::lds<dev::vec<float, 2>>((lower_seen ? table.at(relative + 1) : table.hidden) + uint32_t(t * 256));
          previous.bias[t][0] = bias[0], previous.bias[t][1] = bias[1];
        }
      }
      previous.seen = upper_seen;
      weigh(weight + a * kTiles, grad + a * kTiles, k, row_at[a], upper_seen ? table.at(relative) : table.hidden,
            previous.bias);
    }
    add(sums, weight, grad, row_at);
  }

  // All query rows of a step away from borders; the ring has the first at `at`.
  DEV_FN void take_all(Sums& sums, const Keys& k, uint32_t at) const {
    Previous previous;
    const uint32_t first = table.at(9);  // the row of queries 3 before the upper keys
#pragma unroll
    for (int j = 0; j < Shape::kRows; ++j) {
      float weight[kAll][4], grad[kAll][4];
      weigh(weight, grad, k, at, j + 1 < Shape::kRows ? first - uint32_t(j * Shape::Table::kRowBytes) : table.hidden,
            previous.bias);
      add(sums, weight, grad, {at});
      at = ring.next(at);
    }
  }

  DEV_FN void add(Sums& sums, const float (&weight)[kAll][4], const float (&grad)[kAll][4],
                  const uint32_t (&row_at)[Shape::kAtOnce]) const {
    const bool odd = lane & 8;  // the lane addresses queries of a pair's second n-tile
#pragma unroll
    for (int n = 0; n < kAll; n += 2) {
      const uint32_t w[4] = {dev::pack<T>(weight[n][0], weight[n][1]), dev::pack<T>(weight[n][2], weight[n][3]),
                             dev::pack<T>(weight[n + 1][0], weight[n + 1][1]),
                             dev::pack<T>(weight[n + 1][2], weight[n + 1][3])};
      const uint32_t g[4] = {dev::pack<T>(grad[n][0], grad[n][1]), dev::pack<T>(grad[n][2], grad[n][3]),
                             dev::pack<T>(grad[n + 1][0], grad[n + 1][1]),
                             dev::pack<T>(grad[n + 1][2], grad[n + 1][3])};
      uint32_t at = row_at[n / kTiles] + uint32_t(n % kTiles * kStep);
      if (kTiles == 3 && odd) at = row_at[(n + 1) / kTiles] + uint32_t((n + 1) % kTiles * kStep - kStep);
#pragma unroll
      for (int d = 0; d < D / 16; ++d) {
        uint32_t query[4], output[4];
        dev::ldmatrix_x4_trans(output, ring.second + at + matrix_offset(query_offset, d));
        dev::mma<T>(sums.value[2 * d], w, output[0], output[1]);
        dev::mma<T>(sums.value[2 * d + 1], w, output[2], output[3]);
        dev::ldmatrix_x4_trans(query, ring.first + at + matrix_offset(query_offset, d));
        dev::mma<T>(sums.key[2 * d], g, query[0], query[1]);
        dev::mma<T>(sums.key[2 * d + 1], g, query[2], query[3]);
      }
    }
  }
};

// The warp that loads.
template <class T, class Shape, int D>
DEV_FN void load_queries(const KeyPassParams<T>& p, const Part& part, const BackwardRing<T, D>& ring,
                         const Signals& signals, uint32_t statistics, int residue, int first) {
  const Map map = part.map;
  const int residues = p.cut.dilation_y * p.cut.dilation_x, lane = int(threadIdx.x & 31), columns = ring.columns;
  StepsDone steps{signals};
  int step = 0;
  for (int member = 0; member < p.group; ++member) {
    const int head = int(blockIdx.x) * p.group + member;
    for (int sample = part.batch; sample < part.batch_end; ++sample) {
      const float* from = p.statistics + ((int64_t(sample) * p.heads + head) * residues + residue) * p.map_size + first;
      BackwardLoader<T, D> loader(ring, part, p.query.of(sample, head), Steps(p.query, p.cut),
                                  p.grad_output.of(sample, head), Steps(p.grad_output, p.cut),
                                  seen_begin_y(map, part.y), ring.at(seen_begin_y(map, part.y) % ring.slots), first,
                                  p.head_dim);
      const auto load_statistics = [&](int row, uint32_t at) {
        const float* const row_from = from + int64_t(2 * row) * p.length_x;
        const uint32_t to = statistics + at / (D / 4);
        for (int column = lane; column < columns; column += 32) {
          const bool valid = row < map.length_y && first + column < map.length_x;
          const float* const a = valid ? row_from + column : from;
          dev::cp_async<4>(to + uint32_t(column * 4), a, valid);
          dev::cp_async<4>(to + uint32_t((columns + column) * 4), valid ? a + p.length_x : from, valid);
        }
      };
      Prefetcher<T> key(p.key, p.cut, part, sample, int(blockIdx.x), p.head_dim);
      Prefetcher<T> value(p.value, p.cut, part, sample, int(blockIdx.x), p.head_dim);
      key.two_rows(), value.two_rows();
      const int first_step = step;
      steps.wait_before(first_step);
      for (int y = part.y; y < part.y_end; y += kTileY, ++step) {
        const int end = seen_end_y(map, y);
        int free = int(max_of(steps.done, step - Signals::kStages + 1));  // steps before this must be done
        while (free < step && seen_begin_y(map, part.y + (free - first_step) * kTileY) < end - p.slots) ++free;
        steps.wait_before(free);
        loader.load(end, load_statistics);
        signals.will_load(step);
        if (y + kTileY < part.y_end) key.two_rows(), value.two_rows();
      }
    }
  }
}

template <class T, class Shape, int D>
DEV_KERNEL((kMaxTiles + 1) * 32, D <= 32 ? 2 : 1)
key_pass(const KeyPassParams<T> p) {
  const int key_head = int(blockIdx.x);
  Part part = part_of(p.cut, int(blockIdx.y), int(blockIdx.z));
  const Map map = part.map;
  part.x += p.origin[part.residue_x >= p.cut.extent_x % p.cut.dilation_x];
  if (part.x >= map.length_x || part.y >= map.length_y) return;

  DEV_SMEM(shared);
  const int warp = dev::shfl(int(threadIdx.x >> 5), 0), lane = int(threadIdx.x & 31), group = lane >> 2,
            quad_lane = lane & 3;
  const int warps = int(min_of(p.cut.tiles, ceil_div(map.length_x - part.x, kTileX)));  // that compute
  const int first = first_query_column(map, part.x, Shape::kColumns);

  BackwardRing<T, D> ring;
  ring.set(shared, p.cut.shared_columns, p.slots);
  const uint32_t statistics = ring.end();
  const Signals signals{statistics + uint32_t(p.slots * p.cut.shared_columns * 8)};
  if (threadIdx.x == 0) signals.start(warps);
  const uint32_t tables = signals.base + kSignalBytes;
  const uint32_t one_table = uint32_t(table_bytes(map.kernel_y, Shape::kTiles));
  const int residues = p.cut.dilation_y * p.cut.dilation_x;
  const int residue = part.residue_y * p.cut.dilation_x + part.residue_x;
  const auto fill_tables = [&](int head, int threads) {
    const int entries = (2 * map.kernel_y - 1) * (2 * map.kernel_x - 1);
    const float* rpb = p.rpb ? p.rpb + int64_t(head) * entries : nullptr;
    Shape::Table::template fill_all<ByKeys>(tables, map, part.x, warps, rpb, 1.f / p.scale, threads);
  };
  fill_tables(key_head * p.group, int(blockDim.x));
  dev::syncthreads();
  if (warp == p.cut.tiles) return load_queries<T, Shape, D>(p, part, ring, signals, statistics, residue, first);
  const int x = part.x + warp * kTileX;  // of the warp's keys
  if (x >= map.length_x) return;

  const int query_x = first_query_column(map, x, Shape::kColumns);
  KeyTile<T, Shape, D> tile{ring,
                            RowOffsets<D>(query_x - first + group, quad_lane),
                            shared_offset<D>(query_x - first + (lane & 15), lane >> 4),
                            statistics + uint32_t((query_x - first + quad_lane * 2) * 4),
                            lane,
                            p.scale * kLog2e,
                            map,
                            {}};
  tile.table.set(tables + uint32_t(table_number<ByKeys>(map, part.x, warp, p.cut.tiles, Shape::kColumns)) * one_table,
                 lane);
  const bool stored = x + group >= 0 && x + group < map.length_x;
  const int column = int(max_of(0, min_of(x + group, map.length_x - 1)));  // of the map, whatever the lane's is

  int step = 0;
  for (int member = 0; member < p.group; ++member) {
    if (member > 0 && p.rpb) {
      dev::bar_sync(1, warps * 32);
      fill_tables(key_head * p.group + member, warps * 32);
      dev::bar_sync(1, warps * 32);
    }
    for (int sample = part.batch; sample < part.batch_end; ++sample) {
      LaneRows<const T> key(p.key, p.cut, part, sample, key_head, part.y, column);
      LaneRows<const T> value(p.value, p.cut, part, sample, key_head, part.y, column);
      LaneRows<T> grad_key(p.grad_key, p.cut, part, sample, key_head, part.y, column);
      LaneRows<T> grad_value(p.grad_value, p.cut, part, sample, key_head, part.y, column);
      RowWords<D> keys[2], values[2];
      const auto fetch = [&](int y) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          keys[h] = load_row<D>(key.next(), p.head_dim, quad_lane, y + h < map.length_y);
          values[h] = load_row<D>(value.next(), p.head_dim, quad_lane, y + h < map.length_y);
        }
      };

      uint32_t at_begin = ring.at(seen_begin_y(map, part.y) % p.slots);  // of the rows that see the tile
      fetch(part.y);
      for (int y = part.y; y < part.y_end; y += kTileY, ++step) {
        const int begin = seen_begin_y(map, y), end = seen_end_y(map, y);
        uint32_t at = at_begin;
        at_begin = ring.next(at_begin, seen_begin_y(map, y + kTileY) - begin);
        const typename KeyTile<T, Shape, D>::Keys k{{keys[0], keys[1]}, {values[0], values[1]}};
        typename KeyTile<T, Shape, D>::Sums sums;
        signals.wait_loaded(step);
        if (Shape::kFixed && y >= Shape::kRows - 1 && y + Shape::kRows < map.length_y) {
          if constexpr (Shape::kFixed) tile.take_all(sums, k, at);
        } else {
          typename KeyTile<T, Shape, D>::Previous previous;
          for (int row = begin; row < end; row += Shape::kAtOnce) {
            uint32_t row_at[Shape::kAtOnce];
#pragma unroll
            for (int a = 0; a < Shape::kAtOnce; ++a) {
              const bool there = row + a < end;  // else any row will do
              row_at[a] = there ? at : row_at[0];
              if (there) at = ring.next(at);
            }
            tile.take(sums, previous, k, row_at, y, row, end);
          }
        }
        signals.set_done(step, lane);
        if (y + kTileY < part.y_end) fetch(y + kTileY);

        if (p.group > 1) {  // sums of the heads so far, kept by the lanes that made them
          const int64_t pairs = (p.map_size / (2 * p.length_x) + 1) / 2, tiles = int64_t(p.cut.strips) * p.cut.tiles;
          const int64_t strip = blockIdx.y / p.cut.bands % p.cut.strips;
          const int64_t map_number = (int64_t(sample) * gridDim.x + key_head) * residues + residue;
          auto* kept =
              p.sums + ((map_number * pairs + y / 2) * tiles + strip * p.cut.tiles + warp) * (D / 4 * 32) + lane;
#pragma unroll
          for (int n = 0; n < D / 4; ++n) {
            float (&s)[4] = n < D / 8 ? sums.key[n < D / 8 ? n : 0] : sums.value[n < D / 8 ? 0 : n - D / 8];
            if (member > 0) {
              const auto before = dev::ldg(kept + n * 32);
#pragma unroll
              for (int i = 0; i < 4; ++i) s[i] += before[i];
            }
            if (member < p.group - 1) dev::stg(kept + n * 32, dev::vec<float, 4>{{s[0], s[1], s[2], s[3]}});
          }
          if (member < p.group - 1) continue;
        }
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          uint32_t key_words[D / 8], value_words[D / 8];
#pragma unroll
          for (int n = 0; n < D / 8; ++n) {
            key_words[n] = dev::pack<T>(sums.key[n][2 * h] * p.scale, sums.key[n][2 * h + 1] * p.scale);
            value_words[n] = dev::pack<T>(sums.value[n][2 * h], sums.value[n][2 * h + 1]);
          }
          to_chunks<D>(key_words, quad_lane);
          to_chunks<D>(value_words, quad_lane);
          T *const key_to = grad_key.next(), *const value_to = grad_value.next();
          if (stored && y + h < map.length_y) {
            store_row<D>(key_to, key_words, p.head_dim, quad_lane);
            store_row<D>(value_to, value_words, p.head_dim, quad_lane);
          }
        }
      }
    }
  }
}

}  // namespace natten_core::cuda::band
