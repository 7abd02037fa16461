// The key-major pass of the backward: the gradients of keys and values; see docs/kernels/cuda-band.md.
//
// The march of the forward kernel with the roles exchanged: a warp holds 2 rows x 8 columns of keys and values, and the
// rows of queries that see them stream through the ring, with the gradients of their outputs and their statistics.
// Scores are transposed, [keys, queries], so that they are factors of both gradients without any shuffle.
#pragma once

#include "cuda/band/backward_key_sums.h"
#include "cuda/band/backward_params.h"
#include "cuda/band/backward_ring.h"
#include "cuda/band/backward_table.h"

namespace natten_core::cuda::band {

// kFixed: exactly 7 rows; then the steps away from borders know which of their 8 query rows see which keys. Rows are of
// kHalves 16-bit elements.
template <int kTiles_, bool kFixed_, int kHalves>
struct KeyShape {
  static constexpr int kTiles = kTiles_;
  static constexpr bool kFixed = kFixed_;
  static constexpr int kRows = 8;
  static constexpr int kColumns = kTiles * 8;
  static constexpr int kBlocks = backward_warps(kHalves, kTiles) == 16 ? 2 : 1;
  using Table = BackwardTable<kTiles>;
};

template <class T, class Shape, class R, int D>
struct KeyTile {
  static constexpr int kTiles = Shape::kTiles, kStep = 8 * kRowBytes<T, D>;  // bytes of 8 columns
  static constexpr int kPerNumber = kRowBytes<T, D> / 8;  // bytes of the ring for one of the statistics
  using Sums = KeySums<R, D>;

  BackwardRing<T, D> ring;
  RowOffsets<kHalves<T, D>> query_offsets;  // in a row of the ring, of the lane's query of the first n-tile
  ColumnOffsets<T, D> column_offsets;  // likewise, for products over queries
  uint32_t statistics;  // [slots, 2, columns], at the lane's column of the first n-tile as an accumulator's column
  float scale_log2;
  Map map;
  typename Shape::Table table;

  struct Keys {
    RowPair<kHalves<T, D>> key, value;  // no value where the gradient of keys is not asked for
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

  // The query row `row`, which the ring has at `at`, for the key rows y and y + 1.
  DEV_FN void take(Sums& sums, Previous& previous, const Keys& k, uint32_t at, int y, int row) const {
    const int begin = start_y(map, row), relative = y - row + map.kernel_y - 1;
    const bool upper_seen = y >= begin && y < begin + map.kernel_y;
    const bool lower_seen = y + 1 >= begin && y + 1 < begin + map.kernel_y;
    if (lower_seen != previous.seen) {  // at borders, and where either begins or ends
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        const auto bias =
            dev::lds<dev::vec<float, 2>>((lower_seen ? table.at(relative + 1) : table.hidden) + uint32_t(t * 256));
        previous.bias[t][0] = bias[0], previous.bias[t][1] = bias[1];
      }
    }
    previous.seen = upper_seen;
    add(sums, k, at, upper_seen ? table.at(relative) : table.hidden, previous.bias);
  }

  // All query rows of a step away from borders; the ring has the first at `at`.
  DEV_FN void take_all(Sums& sums, const Keys& k, uint32_t at) const {
    Previous previous;
    const uint32_t first = table.at(9);  // the row of queries 3 before the upper keys
#pragma unroll 1  // unrolled, it takes more registers than there are
    for (int j = 0; j < Shape::kRows; ++j) {
      add(sums, k, at, j + 1 < Shape::kRows ? first - uint32_t(j * Shape::Table::kRowBytes) : table.hidden,
          previous.bias);
      at = ring.next(at);
    }
  }

 private:
  // The query row that the ring has at `at`; `upper` are the biases of the upper key row.
  DEV_FN void add(Sums& sums, const Keys& k, uint32_t at, uint32_t upper, float (&lower)[kTiles][2]) const {
    const uint32_t query = ring.first + at, output = ring.second + at, numbers = statistics + at / kPerNumber;
#pragma unroll
    for (int t = 0; t < kTiles; t += 2) {  // products over queries take two n-tiles
      float weight[2][4], grad[2][4];
      weigh(weight[0], grad[0], k, query, output, numbers, t, upper, lower[t]);
      const uint32_t step = uint32_t(t * kStep);
      if (t + 1 == kTiles) {
        if constexpr (R::kValue) add_tile<T, D>(sums.value, weight[0], output + step, column_offsets);
        if constexpr (R::kKey) add_tile<T, D>(sums.key, grad[0], query + step, column_offsets);
      } else {
        weigh(weight[1], grad[1], k, query, output, numbers, t + 1, upper, lower[t + 1]);
        if constexpr (R::kValue) add_tiles<T, D>(sums.value, weight[0], weight[1], output + step, column_offsets);
        if constexpr (R::kKey) add_tiles<T, D>(sums.key, grad[0], grad[1], query + step, column_offsets);
      }
    }
  }

  // Weights and score gradients of the n-tile t. `lower` are the biases of the lower key row, and then of the upper.
  DEV_FN void weigh(float (&weight)[4], float (&grad)[4], const Keys& k, uint32_t query, uint32_t output,
                    uint32_t numbers, int t, uint32_t upper, float (&lower)[2]) const {
    const auto bias = dev::lds<dev::vec<float, 2>>(upper + uint32_t(t * 256));
    float score[4] = {bias[0], bias[1], lower[0], lower[1]};
    lower[0] = bias[0], lower[1] = bias[1];
    multiply_rows<T>(score, k.key, load_shared_row<kHalves<T, D>>(query + uint32_t(t * kStep), query_offsets));
    const auto lse = dev::lds<dev::vec<float, 2>>(numbers + uint32_t(t * 32));
    if constexpr (R::kKey) {
      const auto delta = dev::lds<dev::vec<float, 2>>(numbers + uint32_t(t * 32 + ring.columns * 4));
      grad[0] = grad[2] = delta[0], grad[1] = grad[3] = delta[1];
      multiply_rows<T>(grad, k.value, load_shared_row<kHalves<T, D>>(output + uint32_t(t * kStep), query_offsets));
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      weight[i] = dev::ex2(dev::fma(score[i], scale_log2, lse[i & 1]));
      if constexpr (R::kKey) grad[i] *= weight[i];
    }
  }
};

// Adds what the lane kept of the heads of a group before, and keeps the sums for the next.
template <int N>
DEV_FN void keep(float (&sums)[N][4], dev::vec<float, 4>* kept, bool has_before, bool has_next) {
#pragma unroll
  for (int n = 0; n < N; ++n) {
    float (&s)[4] = sums[n];
    if (has_before) {
      const auto before = dev::ldg(kept + n * 32);
#pragma unroll
      for (int i = 0; i < 4; ++i) s[i] += before[i];
    }
    if (has_next) dev::stg(kept + n * 32, dev::vec<float, 4>{{s[0], s[1], s[2], s[3]}});
  }
}

// The warp that loads.
template <class T, class Shape, int D>
DEV_FN void load_queries(const KeyPassParams<T>& p, const Part& part, const BackwardRing<T, D>& ring,
                         const Signals& signals, uint32_t statistics, int first) {
  const Map map = part.map;
  const int residues = p.cut.dilation_y * p.cut.dilation_x, residue = residue_of(p.cut, part);
  const int lane = int(threadIdx.x & 31), columns = ring.columns;
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
        const uint32_t to = statistics + at / (kRowBytes<T, D> / 8);
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

// The part of the block, found from its number each time: kept, it takes registers from the loops.
template <class T>
DEV_FN Part key_part(const KeyPassParams<T>& p) {
  Part part = part_of(p.cut, anew(int(blockIdx.y)), anew(int(blockIdx.z)));
  part.x += p.origin[part.residue_x >= p.cut.extent_x % p.cut.dilation_x];
  return part;
}

// Where the lane keeps the sums of a step for the next head of the group; see KeyPassParams.
template <int D, class T>
DEV_FN dev::vec<float, 4>* kept_sums(const KeyPassParams<T>& p, int sample, int warp, int y) {
  const Part part = key_part(p);
  const int strip = int(blockIdx.y) / p.cut.bands % p.cut.strips, residues = p.cut.dilation_y * p.cut.dilation_x;
  const int64_t map_number = (int64_t(sample) * gridDim.x + blockIdx.x) * residues + residue_of(p.cut, part);
  const int64_t pairs = (p.map_size / (2 * p.length_x) + 1) / 2, tiles = int64_t(p.cut.strips) * p.cut.tiles;
  return p.sums + ((map_number * pairs + y / 2) * tiles + strip * p.cut.tiles + warp) * (D / 4 * 32) +
         (threadIdx.x & 31);
}

template <class T, class Shape, class R, int D>
DEV_KERNEL((kMaxTiles + 1) * 32, Shape::kBlocks)
key_pass(const KeyPassParams<T> p) {
  const int key_head = int(blockIdx.x);
  const Part part = key_part(p);
  const Map map = part.map;
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
  const auto fill_tables = [&](const Part& of, int head, int threads) {
    const int entries = (2 * map.kernel_y - 1) * (2 * map.kernel_x - 1);
    const float* rpb = p.rpb ? p.rpb + int64_t(head) * entries : nullptr;
    Shape::Table::template fill_all<ByKeys>(tables, of.map, of.x, warps, rpb, 1.f / p.scale, threads);
  };
  fill_tables(part, key_head * p.group, int(blockDim.x));
  dev::syncthreads();
  if (warp == p.cut.tiles) return load_queries<T, Shape, D>(p, part, ring, signals, statistics, first);
  const int x = part.x + warp * kTileX;  // of the warp's keys
  if (x >= map.length_x) return;

  const int query_x = first_query_column(map, x, Shape::kColumns);
  using Own = KeyTile<T, Shape, R, D>;
  Own tile{ring,
           RowOffsets<kHalves<T, D>>(query_x - first + group, quad_lane),
           ColumnOffsets<T, D>(query_x - first, lane),
           statistics + uint32_t((query_x - first + quad_lane * 2) * 4),
           p.scale * dev::kLog2e,
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
      fill_tables(key_part(p), key_head * p.group + member, warps * 32);
      dev::bar_sync(1, warps * 32);
    }
    for (int sample = part.batch; sample < part.batch_end; ++sample) {
      const Part part = key_part(p);
      const auto rows_of = [&](const auto& view, int y) {
        return LaneRows(view, p.cut, part, sample, key_head, y, column);
      };
      RowWords<kHalves<T, D>> keys[2], values[2] = {};
      const auto fetch = [&](int y) {
        const auto key = rows_of(p.key, y), value = rows_of(p.value, y);
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          keys[h] = load_row<kHalves<T, D>>(key[h], p.head_dim, quad_lane, y + h < map.length_y);
          if (R::kKey) values[h] = load_row<kHalves<T, D>>(value[h], p.head_dim, quad_lane, y + h < map.length_y);
        }
      };

      uint32_t at_begin = ring.at(seen_begin_y(map, part.y) % p.slots);  // of the rows that see the tile
      fetch(part.y);
      for (int y = part.y; y < part.y_end; y += kTileY, ++step) {
        const int begin = seen_begin_y(map, y), end = seen_end_y(map, y);
        uint32_t at = at_begin;
        at_begin = ring.next(at_begin, seen_begin_y(map, y + kTileY) - begin);
        const typename Own::Keys k{{factors<T>(keys[0]), factors<T>(keys[1])},
                                   {factors<T>(values[0]), factors<T>(values[1])}};
        typename Own::Sums sums;
        signals.wait_loaded(step);
        if (Shape::kFixed && y >= Shape::kRows - 1 && y + Shape::kRows < map.length_y) {
          if constexpr (Shape::kFixed) tile.take_all(sums, k, at);
        } else {
          typename Own::Previous previous;
#pragma unroll 1
          for (int row = begin; row < end; ++row) {
            tile.take(sums, previous, k, at, y, row);
            at = ring.next(at);
          }
        }
        signals.set_done(step, lane);
        if (y + kTileY < part.y_end) fetch(y + kTileY);

        if (p.group > 1) {  // sums of the heads so far, kept by the lanes that made them
          auto* kept = kept_sums<D>(p, sample, warp, y);
          if constexpr (R::kKey) keep(sums.key, kept, member > 0, member < p.group - 1);
          if constexpr (R::kValue) keep(sums.value, kept + D / 8 * 32, member > 0, member < p.group - 1);
          if (member < p.group - 1) continue;
        }
        const auto grad_key = rows_of(p.grad_key, y), grad_value = rows_of(p.grad_value, y);
#pragma unroll
        for (int h = 0; h < 2; ++h)
          sums.template store<T>(h, p.scale, stored && y + h < map.length_y, grad_key[h], grad_value[h], p.head_dim,
                                 quad_lane);
      }
    }
  }
}

}  // namespace natten_core::cuda::band
