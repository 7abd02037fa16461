// The query-major pass of the backward: the gradients of queries and bias; see docs/kernels/cuda-band.md.
//
// The march of the forward kernel. With the log-sum-exp known, one key row at a time gives final probabilities, so that
// scores need not be held. On the way, delta is found for the key-major pass.
#pragma once

#include "cuda/band/backward_bias.h"
#include "cuda/band/backward_params.h"
#include "cuda/band/backward_ring.h"
#include "cuda/band/backward_table.h"
#include "cuda/band/products.h"

namespace natten_core::cuda::band {

// Kernels of up to 8 * (kTiles - 1) + 1 columns. kFixed: exactly 7 rows and at most 8 columns; then the key rows are
// unrolled, and registers sum the gradient of the bias. Rows are of kHalves 16-bit elements.
template <int kTiles_, bool kFixed_, int kHalves>
struct QueryShape {
  static constexpr int kTiles = kTiles_;
  static constexpr bool kFixed = kFixed_;
  static constexpr int kColumns = kTiles * 8;
  static constexpr int kRows = kFixed ? 8 : 0;
  static constexpr bool kAhead = kHalves <= 64;  // the queries of a step are fetched at the end of the one before
  using Table = BackwardTable<kTiles>;
  using Sums = BiasSums<kTiles>;

  static constexpr int blocks(int limit) {
    return (kFixed ? fixed_query_warps(kHalves, limit) : backward_warps(kHalves, kTiles)) == 16 ? 2 : 1;
  }
};

// What the lanes of a warp know of its tile.
template <class T, class Shape, int D>
struct QueryTile {
  static constexpr int kTiles = Shape::kTiles, kStep = 8 * kRowBytes<T, D>;  // bytes of 8 columns

  BackwardRing<T, D> ring;
  RowOffsets<kHalves<T, D>> key_offsets;  // in a row of the ring, of the lane's key of the first n-tile
  ColumnOffsets<T, D> column_offsets;  // likewise, for products over keys
  typename Shape::Table table = {};
  typename Shape::Sums sums = {};
  Map map = {};
  float scale_log2 = 0.f;
  bool has_grad = false;  // of the bias

  struct Queries {
    RowPair<kHalves<T, D>> query, grad;
    float lse[2];  // negated, in base 2
    float delta[4];  // negated, as an accumulator
  };
  struct Previous {
    float grad[kTiles][2];  // of the previous key row and the upper query row, if not kFixed
  };
  float fixed[Shape::kFixed ? 7 : 1][kTiles][2] = {};  // bias gradients by key row from the upper query row's first
  int relation = 0;  // relative row of that key row, for them

  DEV_FN void flush() {
    if constexpr (Shape::kFixed) {
#pragma unroll
      for (int j = 0; j < 6; j += 2) sums.add(relation + j, fixed[j], fixed[j + 1]);
      sums.add(relation + 6, fixed[6]);
#pragma unroll
      for (int j = 0; j < 7; ++j)
#pragma unroll
        for (int t = 0; t < kTiles; ++t) fixed[j][t][0] = fixed[j][t][1] = 0.f;
    }
  }

  // Key row `row` of the tile whose first is relative row `first_row` for the upper query row; the ring has it at `at`,
  // the table the biases of the first at `biases`. `shift` is by how many rows the windows of the lower query row begin
  // after those of the upper: 0 or 1.
  DEV_FN void take(float (&grad_query)[D / 8][4], const Queries& q, uint32_t at, int row, uint32_t biases,
                   int first_row, int shift, Previous& previous) {
    const uint32_t above = biases + uint32_t((row - 1) * Shape::Table::kRowBytes);
    const uint32_t upper = row < map.kernel_y ? above + Shape::Table::kRowBytes : table.hidden;
    const uint32_t lower = row >= shift && row < map.kernel_y + shift ? above : table.hidden;
#pragma unroll
    for (int t = 0; t < kTiles; t += 2) {  // products over keys take two n-tiles
      const uint32_t key = ring.first + at + uint32_t(t * kStep), value = ring.second + at + uint32_t(t * kStep);
      float first[4], second[4];
      differentiate(first, q, key, value, row, t, upper, lower, previous);
      if (t + 1 == kTiles) {
        add_tile<T, D>(grad_query, first, key, column_offsets);
      } else {
        differentiate(second, q, key + kStep, value + kStep, row, t + 1, upper, lower, previous);
        add_tiles<T, D>(grad_query, first, second, key, column_offsets);
      }
    }
    // Row 0 has the lower query row's alone, and nothing where that row's windows begin later or it is not in the map.
    const bool complete = row == 0 ? shift == 0 && first_row > 0 : row <= map.kernel_y;
    if (complete && has_grad && (!Shape::kFixed || row == 0)) sums.add_put(first_row + row - 1);
  }

 private:
  // Score gradients of the n-tile t, of keys and values at `key` and `value`.
  DEV_FN void differentiate(float (&grad)[4], const Queries& q, uint32_t key, uint32_t value, int row, int t,
                            uint32_t upper, uint32_t lower, Previous& previous) {
    const auto above = dev::lds<dev::vec<float, 2>>(upper + uint32_t(t * 256));
    const auto below = dev::lds<dev::vec<float, 2>>(lower + uint32_t(t * 256));
    float score[4] = {above[0], above[1], below[0], below[1]};
    multiply_rows_from<T>(grad, q.delta, q.grad, load_shared_row<kHalves<T, D>>(value, key_offsets));
    multiply_rows<T>(score, q.query, load_shared_row<kHalves<T, D>>(key, key_offsets));
#pragma unroll
    for (int i = 0; i < 4; ++i) grad[i] *= dev::ex2(dev::fma(score[i], scale_log2, q.lse[i >> 1]));
    if constexpr (Shape::kFixed) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if (row < 7) fixed[row < 7 ? row : 0][t][i] += grad[i];
        if (row > 0) fixed[row > 0 ? row - 1 : 0][t][i] += grad[2 + i];
      }
      if (row == 0 && has_grad) sums.put(t, grad[2], grad[3]);
    } else if (has_grad) {
      float (&sum)[2] = previous.grad[t];
      sums.put(t, row > 0 ? sum[0] + grad[2] : grad[2], row > 0 ? sum[1] + grad[3] : grad[3]);
      sum[0] = grad[0], sum[1] = grad[1];
    }
  }
};

// The warp that loads.
template <class T, class Shape, int D>
DEV_FN void load_keys(const QueryPassParams<T>& p, const Part& part, const BackwardRing<T, D>& ring,
                      const Signals& signals, int head, int first) {
  const Map map = part.map;
  const int key_rows = map.kernel_y + 1, key_head = head / p.group;
  StepsDone steps{signals};
  int step = 0;
  for (int sample = part.batch; sample < part.batch_end; ++sample) {
    BackwardLoader<T, D> loader(ring, part, p.key.of(sample, key_head), Steps(p.key, p.cut),
                                p.value.of(sample, key_head), Steps(p.value, p.cut), start_y(map, part.y),
                                ring.at(start_y(map, part.y) % ring.slots), first, p.head_dim);
    Prefetcher<T> query(p.query, p.cut, part, sample, head, p.head_dim);
    Prefetcher<T> grad(p.grad_output, p.cut, part, sample, head, p.head_dim);
    Prefetcher<T> output(p.output, p.cut, part, sample, head, p.head_dim);
    Prefetcher<float> lse(p.lse, p.cut, part, sample, head, 1);
    Prefetcher<float> grad_lse(p.grad_lse.data ? p.grad_lse : p.lse, p.cut, part, sample, head, 1);
    const auto prefetch = [&] {
      query.two_rows(), grad.two_rows(), output.two_rows(), lse.two_rows();
      if (p.grad_lse.data) grad_lse.two_rows();
    };
    prefetch();
    for (int y = part.y; y < part.y_end; y += kTileY, ++step) {
      // What is overwritten was last needed two steps before, but for another sample's rows.
      steps.wait_before(y == part.y ? step : step - 1);
      loader.load(start_y(map, y) + key_rows, [](int, uint32_t) {});
      signals.will_load(step);
      if (y + kTileY < part.y_end) prefetch();
    }
  }
}

// Where the block's gradient of the bias goes.
template <class T>
DEV_FN float* block_grad_rpb(const QueryPassParams<T>& p) {
  const int entries = (2 * p.cut.kernel_y - 1) * (2 * p.cut.kernel_x - 1);
  return p.grad_rpb + ((int64_t(blockIdx.z) * gridDim.y + blockIdx.y) * p.heads + blockIdx.x) * entries;
}

template <class T, class Shape, int D>
DEV_KERNEL((kMaxTiles + 1) * 32, Shape::blocks(kSharedLimit))
query_pass(const QueryPassParams<T> p) {
  const int head = int(blockIdx.x);
  const Part part = part_of(p.cut, int(blockIdx.y), int(blockIdx.z));
  const Map map = part.map;
  const int entries = (2 * map.kernel_y - 1) * (2 * map.kernel_x - 1);
  if (part.x >= map.length_x || part.y >= map.length_y) {
    if (p.grad_rpb)
      for (int e = int(threadIdx.x); e < entries; e += int(blockDim.x)) dev::stg(block_grad_rpb(p) + e, 0.f);
    return;
  }

  DEV_SMEM(shared);
  const int warp = dev::shfl(int(threadIdx.x >> 5), 0), lane = int(threadIdx.x & 31), group = lane >> 2,
            quad_lane = lane & 3;
  const int warps = int(min_of(p.cut.tiles, ceil_div(map.length_x - part.x, kTileX)));  // that compute
  const int first = first_column(map, part.x, Shape::kColumns);

  BackwardRing<T, D> ring;
  ring.set(shared, p.cut.shared_columns, Shape::kFixed ? Shape::kRows + kTileY : p.slots);
  const Signals signals{ring.end()};
  if (threadIdx.x == 0) signals.start(warps);
  const uint32_t tables = signals.base + kSignalBytes;
  const uint32_t one_table = uint32_t(table_bytes(map.kernel_y, Shape::kTiles));
  const float* rpb = p.rpb ? p.rpb + int64_t(head) * entries : nullptr;
  Shape::Table::template fill_all<ByQueries>(tables, map, part.x, warps, rpb, 1.f / p.scale, int(blockDim.x));
  dev::syncthreads();
  if (warp == p.cut.tiles) return load_keys<T, Shape, D>(p, part, ring, signals, head, first);
  const int x = part.x + warp * kTileX;  // of the warp's queries
  if (x >= map.length_x) return;

  const int key_x = first_column(map, x, Shape::kColumns);
  QueryTile<T, Shape, D> tile{ring, RowOffsets<kHalves<T, D>>(key_x - first + group, quad_lane),
                              ColumnOffsets<T, D>(key_x - first, lane)};
  tile.map = map;
  if (Shape::kFixed) tile.map.kernel_y = 7;
  tile.table.set(
      tables + uint32_t(table_number<ByQueries>(map, part.x, warp, p.cut.tiles, Shape::kColumns)) * one_table, lane);
  tile.scale_log2 = p.scale * dev::kLog2e;
  tile.has_grad = p.grad_rpb != nullptr;
  const uint32_t all_sums = tables + uint32_t(p.cut.tables) * one_table;
  const uint32_t one_sums = uint32_t(sums_bytes(map.kernel_y, map.kernel_x));
  const uint32_t own_sums = all_sums + uint32_t(warp) * one_sums;
  if (tile.has_grad)
    tile.sums.set(own_sums, own_sums + kScratch * 4, 2 * map.kernel_y - 1, map.kernel_x, lane, x, key_x);
  tile.relation = start_y(map, part.y) - part.y + map.kernel_y - 1;

  // A column beyond the map reads the last one.
  const int column = int(min_of(x + group, map.length_x - 1));
  const bool stored = x + group < map.length_x;

  struct Fetched {
    RowWords<kHalves<T, D>> query[2], grad[2], output[2];
  };
  int step = 0;
  for (int sample = part.batch; sample < part.batch_end; ++sample) {
    const auto rows_of = [&](const auto& view, int y) { return LaneRows(view, p.cut, part, sample, head, y, column); };
    Fetched f;
    const auto fetch = [&](int y) {
      const auto query = rows_of(p.query, y), grad = rows_of(p.grad_output, y), output = rows_of(p.output, y);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const bool there = y + h < map.length_y;
        f.query[h] = load_row<kHalves<T, D>>(query[h], p.head_dim, quad_lane, there);
        f.grad[h] = load_row<kHalves<T, D>>(grad[h], p.head_dim, quad_lane, there);
        f.output[h] = load_row<kHalves<T, D>>(output[h], p.head_dim, quad_lane, there);
      }
    };

    uint32_t at_first = ring.at(start_y(map, part.y) % ring.slots);  // the keys of a step
    if (Shape::kAhead) fetch(part.y);
    for (int y = part.y; y < part.y_end; y += kTileY, ++step) {
      const int key_y = start_y(map, y), shift = start_y(map, y + 1) - key_y;
      if (!Shape::kAhead) fetch(y);
      // The log-sum-exp of the upper and lower row, and the gradients of both, in the lanes of a quad.
      const bool has_lse = quad_lane < 2;
      const View<const float>& numbers = has_lse ? p.lse : p.grad_lse;
      float number = has_lse ? INFINITY : 0.f;  // rows beyond the map get no weight
      if (numbers.data && y + (lane & 1) < map.length_y) number = dev::ldg(rows_of(numbers, y)[lane & 1]);
      typename QueryTile<T, Shape, D>::Queries q{
          {factors<T>(f.query[0]), factors<T>(f.query[1])}, {factors<T>(f.grad[0]), factors<T>(f.grad[1])}, {}, {}};
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float delta = own_product<T>(q.grad, f.output[h], h, lane);
        q.delta[2 * h] = dev::shfl(number, (lane & 28) | 2 | h) - delta;
        q.delta[2 * h + 1] = distinct(q.delta[2 * h]);
        q.lse[h] = dev::shfl(number, (lane & 28) | h) * -dev::kLog2e;
      }
      if (stored && y + (quad_lane >> 1) < map.length_y) {
        const float upper = lane & 1 ? q.delta[0] : q.lse[0], lower = lane & 1 ? q.delta[2] : q.lse[1];
        const int residues = p.cut.dilation_y * p.cut.dilation_x;
        const int64_t map_number = (int64_t(sample) * p.heads + head) * residues + residue_of(p.cut, part);
        const int to = (2 * y + quad_lane) * p.length_x + anew(column);
        dev::stg(p.statistics + map_number * p.map_size + to, has_lse ? upper : lower);
      }

      const int first_row = key_y - y + map.kernel_y - 1;
      if (Shape::kFixed && tile.has_grad && first_row != tile.relation) {
        tile.flush();
        tile.relation = first_row;
      }
      float sum[D / 8][4] = {};
      typename QueryTile<T, Shape, D>::Previous previous = {};
      uint32_t at = at_first;
      at_first = ring.next(at_first, start_y(map, y + kTileY) - key_y);
      signals.wait_loaded(step);
      const auto take = [&](int row) {
        tile.take(sum, q, at, row, tile.table.at(first_row), first_row, shift, previous);
        at = ring.next(at);
      };
      if constexpr (Shape::kFixed) {
#pragma unroll
        for (int j = 0; j < Shape::kRows; ++j) take(j);
      } else {
#pragma unroll 1
        for (int j = 0; j <= map.kernel_y; ++j) take(j);
      }
      signals.set_done(step, lane);
      if (Shape::kAhead && y + kTileY < part.y_end) fetch(y + kTileY);

      const auto result = rows_of(p.grad_query, y);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        uint32_t words[kHalves<T, D> / 8];
        to_row<T, D>(words, sum, h, p.scale, quad_lane);
        if (stored && y + h < map.length_y) store_row<kHalves<T, D>>(result[h], words, p.head_dim, quad_lane);
      }
    }
  }
  if (!tile.has_grad) return;
  tile.flush();
  // What is needed for this alone is found anew.
  const Part whole = part_of(p.cut, anew(int(blockIdx.y)), 0);
  const int threads = int(min_of(p.cut.tiles, ceil_div(whole.map.length_x - whole.x, kTileX))) * 32;
  const int entries_of_map = (2 * p.cut.kernel_y - 1) * (2 * p.cut.kernel_x - 1);
  const uint32_t one = uint32_t(sums_bytes(p.cut.kernel_y, p.cut.kernel_x));
  const uint32_t first_bins = tile.sums.bins - uint32_t(warp) * one;
  dev::bar_sync(1, threads);
  for (int e = int(threadIdx.x); e < entries_of_map; e += threads) {
    float sum = 0.f;
    for (int w = 0; w < threads / 32; ++w) sum += dev::lds<float>(first_bins + uint32_t(w) * one + uint32_t(e * 4));
    dev::stg(block_grad_rpb(p) + e, sum);
  }
}

}  // namespace natten_core::cuda::band
