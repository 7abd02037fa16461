// The forward kernel: see docs/kernels/cuda-band.md.
//
// A block takes a strip of columns of one head and marches down a band of rows, two at a time. Its last warp streams
// keys and values through a ring in shared memory, one or two steps before they are needed. The others hold all scores
// of their 16 queries in registers (or, for the larger kernels and head_dims, those of kChunkRows key rows at a time).
#pragma once

#include "cuda/band/bias_table.h"
#include "cuda/band/fragments.h"
#include "cuda/band/params.h"
#include "cuda/band/products.h"
#include "cuda/band/ring.h"
#include "cuda/band/signals.h"
#include "cuda/device/primitives.h"

namespace natten_core::cuda::band {

// Kernels of up to K (odd) rows and 8 * kTiles - 7 columns.
template <class T, int K, int D>
struct ForwardShape {
  static constexpr int kAhead = ahead(int(sizeof(T)));  // steps by which copies run ahead
  static_assert(Signals::kStages >= kAhead + 2, "steps under way: the one computed, those loaded, one being left");
  static constexpr int kTiles = K <= 9 ? 2 : 3;
  static constexpr int kColumns = kTiles * 8;
  static constexpr int kKeyRows = K + 1;
  static constexpr int kSlots = kKeyRows + kTileY * kAhead;
  // Scores held at once: as many as leave room for the output.
  static constexpr int kMaxRows = (D <= 64 ? 16 : 8) / kTiles / 2 * 2;
  static constexpr int kChunks = (kKeyRows + kMaxRows - 1) / kMaxRows;
  static constexpr int kChunkRows = (kKeyRows / 2 + kChunks - 1) / kChunks * 2;
  using Table = BiasTable<K, kTiles>;

  static constexpr int shared_bytes(int columns, int tables) {
    return 2 * kSlots * columns * kRowBytes<T, D> + tables * Table::kBytes + kSignalBytes;
  }
  static constexpr bool kSmall = kHalves<T, D> <= 32 && K <= 7;  // does with 128 registers; left alone, takes up to 168
  // Of a multiprocessor, at least: see share_registers.
  static constexpr int blocks(int limit) {
    return kSmall && share_registers(limit, shared_bytes((kSharers - 1) * kTileX + kColumns, 1)) ? 2 : 1;
  }
};

// The softmax and output of 2 x 8 queries, as a warp holds them: [0] for the lane's query of the upper row.
template <int D>
struct ForwardState {
  float output[D / 8][4] = {};
  float maximum[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0.f, 0.f};  // of the lane's keys
};

// What a lane knows of its warp's column tile.
template <class T, int K, int D>
struct ForwardTile {
  using Shape = ForwardShape<T, K, D>;
  using Queries = RowPair<kHalves<T, D>>;
  static constexpr int kTiles = Shape::kTiles, kStep = 8 * kRowBytes<T, D>;  // bytes from an n-tile to the next

  Ring<T, D, Shape::kSlots> ring;
  RowOffsets<kHalves<T, D>> key_offsets;  // of the lane's key of the first n-tile
  ColumnOffsets<T, D> value_offsets;
  uint32_t table;  // of biases, at the lane's entries
  int lane, kernel_y;
  float scale_log2;

  // Takes all key rows of the queries in rows y and y + 1 into `state`. `shift` is by how many rows the windows of row
  // y + 1 begin after those of row y: 0 or 1. Calls `queries_done` when it needs them no more.
  template <class Function>
  DEV_FN void take_all(ForwardState<D>& state, const Queries& queries, int y, int key_y, int shift,
                       const Function& queries_done) const {
    constexpr int kBefore = (Shape::kChunks - 1) * Shape::kChunkRows;
#pragma unroll 1
    for (int first = 0; first < kBefore; first += Shape::kChunkRows)
      take<Shape::kChunkRows, false>(state, queries, first, y, key_y, shift, [] {});
    take<Shape::kKeyRows - kBefore, true>(state, queries, kBefore, y, key_y, shift, queries_done);
  }

 private:
  // Takes kRows key rows from the window's row `first` on.
  template <int kRows, bool kLast, class Function>
  DEV_FN void take(ForwardState<D>& state, const Queries& queries, int first, int y, int key_y, int shift,
                   const Function& queries_done) const {
    constexpr int kAll = kRows * kTiles;
    float score[kAll][4];
    uint32_t row_at[kRows];
    row_at[0] = ring.at(key_y + first);
#pragma unroll
    for (int j = 1; j < kRows; ++j) row_at[j] = ring.next(row_at[j - 1]);

    const uint32_t biases = table + uint32_t((key_y + first - y + kernel_y) * Shape::Table::kRowBytes);
#pragma unroll
    for (int j = 0; j < kRows; ++j) {
      const uint32_t top_bias = biases + uint32_t(j * Shape::Table::kRowBytes);
      uint32_t bottom_bias = top_bias - Shape::Table::kRowBytes;
      // Of K + 1 rows the upper queries see all but the last, the lower ones all but the first or the last.
      const bool last = kLast && j == kRows - 1;
      if ((j == 0 && first == 0 && shift == 1) || (last && shift == 0)) bottom_bias = table;
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        float (&s)[4] = score[j * kTiles + t];
        const auto above = dev::lds<dev::vec<float, 2>>(last ? table : top_bias + t * 256);
        const auto below = dev::lds<dev::vec<float, 2>>(bottom_bias + t * 256);
        s[0] = above[0], s[1] = above[1], s[2] = below[0], s[3] = below[1];
        multiply_rows<T>(s, queries, load_shared_row<kHalves<T, D>>(ring.first + row_at[j] + t * kStep, key_offsets));
      }
    }
    queries_done();
    if (kernel_y < K) {
#pragma unroll
      for (int n = 0; n < kAll; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i)
          if (first + n / kTiles >= kernel_y + (i < 2 ? 0 : shift)) score[n][i] = -INFINITY;
    }

#pragma unroll
    for (int h = 0; h < 2; ++h) weigh(state, score, kLast && h == 0 ? kAll - kTiles : kAll, first > 0, h);

    multiply_values(state, score, row_at);
  }

  // Adds the weighted values of the key rows at `row_at`.
  template <int kRows>
  DEV_FN void multiply_values(ForwardState<D>& state, const float (&weight)[kRows * kTiles][4],
                              const uint32_t (&row_at)[kRows]) const {
    constexpr int kAll = kRows * kTiles;
    if constexpr (dev::is_16_bit<T>) {
      static_assert(kAll % 2 == 0, "the products with values take pairs of n-tiles");
      const bool odd = lane & 8;  // the lane addresses keys of the pair's second n-tile
#pragma unroll
      for (int n = 0; n < kAll; n += 2) {
        uint32_t at = row_at[n / kTiles] + n % kTiles * kStep;
        if (kTiles == 3 && odd) at = row_at[(n + 1) / kTiles] + (n + 1) % kTiles * kStep - kStep;
        add_product<T, D>(state.output, Factor<T>(weight[n], weight[n + 1]), ring.second + at, value_offsets.pair);
      }
    } else {
#pragma unroll
      for (int n = 0; n < kAll; ++n)
        add_tile<T, D>(state.output, weight[n], ring.second + row_at[n / kTiles] + n % kTiles * kStep, value_offsets);
    }
  }

  // Turns the scores of query row h into weights, those of the n-tiles before `end`.
  template <int kAll>
  DEV_FN void weigh(ForwardState<D>& state, float (&score)[kAll][4], int end, bool has_before, int h) const {
    float maximum = state.maximum[h];
#pragma unroll
    for (int n = 0; n < kAll; ++n)
      if (n < end) maximum = dev::max(maximum, dev::max(score[n][2 * h], score[n][2 * h + 1]));
    maximum = dev::max(maximum, dev::shfl_xor(maximum, 1));
    maximum = dev::max(maximum, dev::shfl_xor(maximum, 2));
    // A query may see none of the first rows; with a finite subtrahend its weights are 0, not NaN.
    const float base = Shape::kChunks > 1 && maximum == -INFINITY ? 0.f : maximum * scale_log2;
    float sum = 0.f;
#pragma unroll
    for (int n = 0; n < kAll; ++n)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float& s = score[n][2 * h + i];
        s = n < end ? dev::ex2(dev::fma(s, scale_log2, -base)) : 0.f;
        if (n < end) sum += s;
      }
    if (Shape::kChunks > 1 && has_before) {
      const float factor = state.maximum[h] == -INFINITY ? 0.f : dev::ex2(state.maximum[h] * scale_log2 - base);
      sum += state.sum[h] * factor;
#pragma unroll
      for (int n = 0; n < D / 8; ++n) state.output[n][2 * h] *= factor, state.output[n][2 * h + 1] *= factor;
    }
    state.sum[h] = sum, state.maximum[h] = maximum;
  }
};

// Brings the queries of rows y and y + 1 near: [Y, X, head_dim] from `query` on.
template <int D, class T>
DEV_FN void prefetch_queries(const ForwardParams<T>& p, const Part& part, const T* query, int y, int lane) {
  const Steps steps(p.query, p.cut);
  const int width = p.cut.tiles * kTileX;
  for (int i = lane; i < kTileY * width; i += 32) {
    const int row = y + (i >= width ? 1 : 0), x = part.x + (i >= width ? i - width : i);
    if (row >= part.map.length_y || x >= part.map.length_x) continue;
    dev::prefetch_global(query + steps.at(part, row, x));
    if (!dev::is_16_bit<T> && D > 32) dev::prefetch_global(query + steps.at(part, row, x) + 32);
  }
}

template <class T, int K, int D>
DEV_KERNEL((kMaxTiles + 1) * 32, ForwardShape<T, K, D>::blocks(kSharedLimit))
forward_kernel(const ForwardParams<T> p) {
  using Shape = ForwardShape<T, K, D>;
  const int head = int(blockIdx.x), key_head = head / p.group;
  const Part part = part_of(p.cut, int(blockIdx.y), int(blockIdx.z));
  const Map map = part.map;
  if (part.x >= map.length_x || part.y >= map.length_y) return;

  DEV_SMEM(shared);
  const int warp = int(threadIdx.x >> 5), lane = int(threadIdx.x & 31), quad_lane = lane & 3;
  const int first = first_column(map, part.x, Shape::kColumns);
  Ring<T, D, Shape::kSlots> ring;
  ring.columns = p.cut.shared_columns, ring.first = shared, ring.second = shared + ring.bytes();

  // The bias tables: every warp's tile, those alike once.
  const uint32_t tables = ring.second + ring.bytes();
  const float* rpb = p.rpb ? p.rpb + int64_t(head) * (2 * map.kernel_y - 1) * (2 * map.kernel_x - 1) : nullptr;
  bool have_interior = false;
  for (int w = 0; w < p.cut.tiles; ++w) {
    const int x = part.x + w * kTileX, number = table_of(map, part.x, w, Shape::kColumns);
    if (x >= map.length_x || (number == 0 && have_interior)) continue;
    have_interior |= number == 0;
    Shape::Table::fill(tables + uint32_t(number * Shape::Table::kBytes), map, x, first_column(map, x, Shape::kColumns),
                       rpb, 1.f / p.scale);
  }

  const Signals signals{tables + uint32_t(p.cut.tables * Shape::Table::kBytes)};
  if (threadIdx.x == 0) signals.start(int(min_of(p.cut.tiles, ceil_div(map.length_x - part.x, kTileX))));
  dev::syncthreads();

  if (warp == p.cut.tiles) {
    // The warp that loads. Steps are numbered over the samples.
    int step = 0;
    for (int sample = part.batch; sample < part.batch_end; ++sample) {
      const int begin = start_y(map, part.y);
      RingLoader<T, D, Ring<T, D, Shape::kSlots>, 1> loader(ring, part, p.key.of(sample, key_head), Steps(p.key, p.cut),
                                                            p.value.of(sample, key_head), Steps(p.value, p.cut), begin,
                                                            ring.at(begin), first, p.head_dim);
      for (int y = part.y; y < part.y_end; y += kTileY, ++step) {
        // What is overwritten was last needed kAhead + 1 steps before, but for another sample's rows.
        const int before = y == part.y ? step - 1 : step - Shape::kAhead - 1;
        if (before >= 0) signals.wait_done(before);
        loader.load(start_y(map, y) + Shape::kKeyRows, [](int, uint32_t) {});
        signals.will_load(step);
        prefetch_queries<D>(p, part, p.query.of(sample, head), y, lane);
      }
    }
    return;
  }

  const int x = part.x + warp * kTileX;  // of the warp's queries
  if (x >= map.length_x) return;
  const int query_x = int(min_of(x + (lane >> 2), map.length_x - 1));  // beyond the map, the last once more
  const bool stored = x + (lane >> 2) < map.length_x;
  const int key_x = first_column(map, x, Shape::kColumns) - first;
  const ForwardTile<T, K, D> tile{
      ring,
      RowOffsets<kHalves<T, D>>(key_x + (lane >> 2), quad_lane),
      ColumnOffsets<T, D>(key_x, lane),
      tables + uint32_t(table_of(map, part.x, warp, Shape::kColumns) * Shape::Table::kBytes + lane * 8),
      lane,
      map.kernel_y,
      p.scale * dev::kLog2e};
  const Steps query_steps(p.query, p.cut), output_steps(p.output, p.cut), lse_steps(p.lse, p.cut);
  // The lane's column of the first sample; they move down the rows, and on to the next sample.
  const T* query = p.query.of(part.batch, head) + query_steps.at(part, part.y, query_x);
  T* output = p.output.of(part.batch, head) + output_steps.at(part, part.y, query_x);
  float* lse = p.lse.of(part.batch, head) + lse_steps.at(part, part.y, query_x);
  const auto next_query = [&](int y) {
    const auto row = load_row<kHalves<T, D>>(query, p.head_dim, quad_lane, y < map.length_y);
    query += query_steps.y;
    return row;
  };

  int step = 0;
  for (int samples = part.batch_end - part.batch; samples > 0; --samples) {
    RowWords<kHalves<T, D>> top = next_query(part.y), bottom = next_query(part.y + 1);
    for (int y = part.y; y < part.y_end; y += kTileY, ++step) {
      signals.wait_loaded(step);
      ForwardState<D> state;
      const int key_y = start_y(map, y);
      const RowPair<kHalves<T, D>> queries(factors<T>(top), factors<T>(bottom));
      tile.take_all(state, queries, y, key_y, start_y(map, y + 1) - key_y,
                    [&] { top = next_query(y + 2), bottom = next_query(y + 3); });
      signals.set_done(step, lane);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float sum = state.sum[h];
        sum += dev::shfl_xor(sum, 1);
        sum += dev::shfl_xor(sum, 2);
        const float inverse = dev::rcp(sum);
        uint32_t words[kHalves<T, D> / 8];
        to_row<T, D>(words, state.output, h, inverse, quad_lane);
        if (stored && y + h < map.length_y) {
          store_row<kHalves<T, D>>(output, words, p.head_dim, quad_lane);
          if (quad_lane == 0) dev::stg(lse, state.maximum[h] * p.scale + dev::lg2(sum) * dev::kLn2);
        }
        output += output_steps.y, lse += lse_steps.y;
      }
    }
    const int64_t rows = ceil_div(part.y_end - part.y, kTileY) * kTileY;
    query += p.query.batch - (rows + kTileY) * query_steps.y;
    output += p.output.batch - rows * output_steps.y, lse += p.lse.batch - rows * lse_steps.y;
  }
}

}  // namespace natten_core::cuda::band
