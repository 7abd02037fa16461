// Weighted sums on tiles: of values by the weights, or of keys by their gradients. A query's weights at one key row are
// a row of columns, zeros but for its window, so they also multiply what lies outside it. Therefore tokens are packed
// with zeros for whatever is not finite, and that is added afterwards to the queries that see it.
#pragma once

#include "../fused/context.h"
#include "finite.h"
#include "sizes.h"

namespace natten_core::cpu::NATTEN_ISA {

// Query rows and tiles of dims that are summed together: four chains of products, which each take three times as long
// as the processor needs to begin the next.
constexpr int kSumRows = 2, kSumTiles = 2;

// Where the weights of each lane go, from the beginning of a key row's.
using Places = int64_t[kTileLanes];

// Eight slots of every lane, of which Count are there, to the lane's place: transposed as dwords of two.
template <int Count, class Weight>
NATTEN_KERNEL void turn_slots(Weight weight, const Places& places, BFloat16* rows) {
  Vec<Pair> p[4];
  NATTEN_UNROLL
  for (int i = 0; i < 4; ++i)
    p[i] =
        2 * i >= Count ? Vec<Pair>{} : narrow_pair(weight(2 * i), 2 * i + 1 < Count ? weight(2 * i + 1) : Vec<float>{});
  const __m512i a = _mm512_unpacklo_epi32((__m512i)p[0], (__m512i)p[1]);
  const __m512i b = _mm512_unpackhi_epi32((__m512i)p[0], (__m512i)p[1]);
  const __m512i c = _mm512_unpacklo_epi32((__m512i)p[2], (__m512i)p[3]);
  const __m512i d = _mm512_unpackhi_epi32((__m512i)p[2], (__m512i)p[3]);
  const auto put = [&](int i, __m512i v) __attribute__((always_inline)) {  // lanes i, i + 4, i + 8, i + 12
    const auto to = [&](int lane) { return reinterpret_cast<__m128i*>(rows + places[lane]); };
    _mm_storeu_si128(to(i), _mm512_castsi512_si128(v));
    _mm_storeu_si128(to(i + 4), _mm512_extracti64x2_epi64(v, 1));
    _mm_storeu_si128(to(i + 8), _mm512_extracti64x2_epi64(v, 2));
    _mm_storeu_si128(to(i + 12), _mm512_extracti64x2_epi64(v, 3));
  };
  put(0, _mm512_unpacklo_epi64(a, c)), put(1, _mm512_unpackhi_epi64(a, c));
  put(2, _mm512_unpacklo_epi64(b, d)), put(3, _mm512_unpackhi_epi64(b, d));
}

// rows[places[lane] + slot] = weights[slot][lane], eight slots at a time, and zero for the slots that a lane lacks.
template <bool Whole>
static void turn_weights(const LaneClass& c, const float* weights, int slots, const Places& places, BFloat16* rows) {
  constexpr int n = kTileLanes;
  IntVec<float> count = {};
  for (int lane = 0; lane < n && !Whole; ++lane) count[lane] = c.end[lane] - c.offset[lane];
  for (int slot = 0; slot < slots; slot += 8, rows += 8) {
    const auto weight = [&](int i) __attribute__((always_inline)) {
      const Vec<float> w = load<float>(weights + (slot + i) * n);
      return Whole ? w : slot + i < count ? w : Vec<float>{};
    };
    switch (slots - slot) {
      case 1: turn_slots<1>(weight, places, rows); break;
      case 2: turn_slots<2>(weight, places, rows); break;
      case 3: turn_slots<3>(weight, places, rows); break;
      case 4: turn_slots<4>(weight, places, rows); break;
      case 5: turn_slots<5>(weight, places, rows); break;
      case 6: turn_slots<6>(weight, places, rows); break;
      case 7: turn_slots<7>(weight, places, rows); break;
      default: turn_slots<8>(weight, places, rows);
    }
  }
}

struct Sums {
  TokenTiles sizes;
  int key_rows, columns, additional_columns;  // columns of a row of weights
  Pair* ring;  // packed key rows
  const BFloat16** unfit;  // [ring slot] the key row's memory where not all of it is finite, or null
  Pair* additional;  // [pair of additional keys][padded_dim]
  BFloat16* weights;  // [kSumRows][key row][lane][columns]
  BFloat16* additional_weights;  // [kSumRows][lane][columns]
  float* results;  // [kSumRows][lane][padded_dim]

  Sums(const Sizes<float>& s, int64_t dim, Arena<float>& arena)
      : sizes(dim, s.plan.max_columns),
        key_rows(s.key_rows),
        columns(weight_columns(s.slots)),
        additional_columns(s.additional > 0 ? weight_columns(s.additional) : 0) {
    const int64_t ring_size = s.plan.ring_rows * sizes.pairs;
    const int64_t additional_size = additional_columns / 2 * sizes.padded_dim;
    const int64_t additional_row = static_cast<int64_t>(kTileLanes) * additional_columns;
    ring = arena.take_as<Pair>(ring_size);
    unfit = arena.take_as<const BFloat16*>(s.plan.ring_rows);
    additional = arena.take_as<Pair>(additional_size);
    weights = arena.take_as<BFloat16>(kSumRows * weights_row());
    additional_weights = arena.take_as<BFloat16>(kSumRows * additional_row);
    results = arena.take(static_cast<int64_t>(kSumRows) * kTileLanes * sizes.padded_dim);
    if (!arena.base) return;
    // Tiles reach beyond what is packed, and what they find there is multiplied by nothing: it must be finite.
    memset(ring, 0, static_cast<size_t>(ring_size) * sizeof(Pair));
    memset(additional, 0, static_cast<size_t>(additional_size) * sizeof(Pair));
    memset(additional_weights, 0, static_cast<size_t>(kSumRows * additional_row) * sizeof(BFloat16));
  }

  int64_t weights_row() const { return static_cast<int64_t>(key_rows) * kTileLanes * columns; }

  NATTEN_MEMBER void pack(const Sizes<float>& s, const RingRow& row, const Tensor& t) const {
    const BFloat16* memory = row.memory<BFloat16>(t);
    Pair* to = ring + row.slot * sizes.pairs;
    bool any = false;
    const auto token = [&](int64_t column) {
      return column < row.begin || column >= row.end ? nullptr : memory + s.plan.coordinate[column] * t.axis[kX];
    };
    for (int64_t column = row.begin / 2 * 2; column < row.end; column += 2, to += sizes.padded_dim)
      any |= pack_finite_pairs(token(column), token(column + 1), sizes.head_dim, to);
    unfit[row.slot] = any ? memory : nullptr;
  }

  // What every query sees may be what it is.
  NATTEN_MEMBER void pack_additional(const Sizes<float>& s, const Item& item, const Tensor& t) const {
    const auto token = [&](int i) {
      return static_cast<const BFloat16*>(t.data) + item.batch * t.batch + item.head * t.head + i * t.axis[kX];
    };
    for (int i = 0; i < s.additional; i += 2)
      pack_pair_row(token(i), i + 1 < s.additional ? token(i + 1) : nullptr, sizes.head_dim,
                    additional + static_cast<int64_t>(i / 2) * sizes.padded_dim);
  }

  // Where a block's columns begin is told from the map's beginning, for results must not depend on how it is cut.
  static int shift(const Work& w) { return static_cast<int>((w.packed_from + w.key_column) % 2); }

  NATTEN_MEMBER void clear_weights() const {
    memset(weights, 0, static_cast<size_t>(kSumRows * weights_row()) * sizeof(BFloat16));
  }

  // Takes the weights [slot][lane] of query row r of the work, the first of each kSumRows at place 0.
  void take(const Sizes<float>& s, const Work& w, int r, const float* from) const {
    const LaneClass& c = w.c;
    Places places;
    BFloat16* to = weights + r % kSumRows * weights_row();
    for (int lane = 0; lane < kTileLanes; ++lane) places[lane] = lane * columns + shift(w) + c.offset[lane];
    const auto turn = c.is_whole() ? turn_weights<true> : turn_weights<false>;
    for (int t = 0; t < w.group.window_rows(r); ++t, from += c.slots * kTileLanes, to += kTileLanes * columns)
      turn(c, from, c.slots, places, to);
    to = additional_weights + r % kSumRows * kTileLanes * additional_columns;
    for (int lane = 0; lane < kTileLanes; ++lane) places[lane] = lane * additional_columns;
    if (s.additional > 0) turn_weights<true>(c, from, s.additional, places, to);
  }

  // Tiles 0 to 3 are the sums of [row][tile of dims], 4 the tokens, 6 the weights.
  template <int Rows, int DimTiles>
  NATTEN_MEMBER void multiply_row(Tiles& tiles, int first, int end, const Pair* tokens, const BFloat16* const* row,
                                  int width, int row_columns) const {
    const int64_t stride = static_cast<int64_t>(sizes.padded_dim) * 4;
    for (int column = 0; column < width; column += kTileDepth, tokens += kTileDepth / 2 * sizes.padded_dim) {
      const auto multiply = [&](auto dim) __attribute__((always_inline)) {
        constexpr int d = decltype(dim)::value;
        tiles.load<4>(tokens + d * kTileLanes, stride);
        for_rows(first, end, [&](auto r) __attribute__((always_inline)) {
          constexpr int at = decltype(r)::value;
          if constexpr (at < Rows) {
            tiles.load<6>(row[at] + column, static_cast<int64_t>(row_columns) * 2);
            tiles.multiply<at * kSumTiles + d, 6, 4>();
          }
        });
      };
      multiply(Constant<0>{});
      if constexpr (DimTiles > 1) multiply(Constant<1>{});
    }
  }

  template <int Rows, int DimTiles>
  void multiply_tiles(Tiles& tiles, const Sizes<float>& s, const Work& w, int r0, int dim) const {
    for_rows(0, Rows, [&](auto r) __attribute__((always_inline)) {
      if constexpr (decltype(r)::value < Rows) {
        tiles.zero<decltype(r)::value * kSumTiles>();
        if constexpr (DimTiles > 1) tiles.zero<decltype(r)::value * kSumTiles + 1>();
      }
    });
    const Pair* block = ring + (w.key_column + w.packed_from % 2) / 2 * sizes.padded_dim + dim;
    const BFloat16* row[Rows];
    for (int i = 0; i < w.group.key_rows; ++i) {
      const KeyRow& key = w.group.keys[i];
      const int first = key.first > r0 ? key.first - r0 : 0, end = key.end < r0 + Rows ? key.end - r0 : Rows;
      if (first >= end) continue;
      for (int r = first; r < end; ++r)
        row[r] = weights + r * weights_row() + static_cast<int64_t>(key.window[r0 + r]) * kTileLanes * columns;
      multiply_row<Rows, DimTiles>(tiles, first, end, block + key.slot * sizes.pairs, row, shift(w) + w.c.width,
                                   columns);
    }
    if (s.additional > 0) {
      for (int r = 0; r < Rows; ++r) row[r] = additional_weights + r * kTileLanes * additional_columns;
      multiply_row<Rows, DimTiles>(tiles, 0, Rows, additional + dim, row, s.additional, additional_columns);
    }
    const int64_t stride = static_cast<int64_t>(sizes.padded_dim) * 4;
    for_rows(0, Rows, [&](auto r) __attribute__((always_inline)) {
      constexpr int at = decltype(r)::value;
      if constexpr (at < Rows) {
        float* const to = results + static_cast<int64_t>(at) * kTileLanes * sizes.padded_dim + dim;
        tiles.store<at * kSumTiles>(to, stride);
        if constexpr (DimTiles > 1) tiles.store<at * kSumTiles + 1>(to + kTileLanes, stride);
      }
    });
  }

  // The results of query rows r0 and, if there are two, r0 + 1.
  void multiply(Tiles& tiles, const Sizes<float>& s, const Work& w, int r0, int rows) const {
    for (int dim = 0; dim < sizes.padded_dim; dim += kSumTiles * kTileLanes) {
      const bool two = sizes.padded_dim - dim > kTileLanes;
      if (rows == 2)
        two ? multiply_tiles<2, 2>(tiles, s, w, r0, dim) : multiply_tiles<2, 1>(tiles, s, w, r0, dim);
      else
        two ? multiply_tiles<1, 2>(tiles, s, w, r0, dim) : multiply_tiles<1, 1>(tiles, s, w, r0, dim);
    }
  }

  // Adds what was not finite to the results of query row r, weights [slot][lane], as far as its window holds it.
  __attribute__((noinline)) void add_unfit(const Sizes<float>& s, const Work& w, int r, const KeyRow& key,
                                           const float* slots, int64_t stride) const {
    slots += static_cast<int64_t>(key.window[r]) * w.c.slots * kTileLanes;
    for (int lane = 0; lane < w.c.lanes; ++lane) {
      float* const to = results + (static_cast<int64_t>(r % kSumRows) * kTileLanes + lane) * sizes.padded_dim;
      for (int u = w.c.offset[lane]; u < w.c.end[lane]; ++u) {
        const BFloat16* token = unfit[key.slot] + s.plan.coordinate[w.packed_from + w.key_column + u] * stride;
        add_not_finite(token, sizes.head_dim, slots[(u - w.c.offset[lane]) * kTileLanes + lane], to);
      }
    }
  }

  // Writes factor * results of query row r to `row`, whose columns are `stride` apart. `slots`: its weights; `source`:
  // the tensor that is summed.
  NATTEN_MEMBER void write(const Sizes<float>& s, const Work& w, int r, const float* slots, const Tensor& source,
                           Vec<float> factor, BFloat16* row, int64_t stride) const {
    for (int i = 0; i < w.group.key_rows; ++i) {
      const KeyRow& key = w.group.keys[i];
      if (unfit[key.slot] && r >= key.first && r < key.end) add_unfit(s, w, r, key, slots, source.axis[kX]);
    }
    const float* from = results + static_cast<int64_t>(r % kSumRows) * kTileLanes * sizes.padded_dim;
    for (int lane = 0; lane < w.c.lanes; ++lane, from += sizes.padded_dim) {
      BFloat16* token = row + s.plan.coordinate[w.column + lane] * stride;
      const Vec<float> lane_factor = broadcast<float>(factor[lane]);
      for (int d = 0; d < sizes.head_dim; d += kTileLanes)
        store_dims<float>(token, d, sizes.head_dim, load<float>(from + d) * lane_factor);
    }
  }
};

}  // namespace natten_core::cpu::NATTEN_ISA
