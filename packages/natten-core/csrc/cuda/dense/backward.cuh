// Backward in one pass: a block takes map after map of one head, reads each of query, key, value and the output's
// gradient once, and writes each gradient once. The output is not needed: its product with its gradient, delta, is
// the sum of P (dO.V^T) over keys.
//
// First warp w has queries 16w .. 16w + 15: P and dS = P (dO.V^T - delta), rounded into shared memory, and dQ = dS.K.
// Then warps 0 and 1 have half of the keys each, of dV = P^T.dO, and warps 2 and 3 of dK = dS^T.Q. The gradient of the
// bias is summed in registers over the maps of a segment, then by offset in a fixed order: one partial sum per block.
#pragma once

#include "cuda/dense/window.cuh"
#include "cuda/device/start.h"

namespace natten_core::cuda::dense {

using BackwardAddresses = Addresses<kBackwardMembers>;

// Tiles of a stage.
enum Tile { kQueries, kKeys, kValues, kGradOutputs, kTiles };

template <int kDim>
struct BackwardShape {
  static constexpr int kStages = kDim == 128 ? 1 : 2;
  static constexpr int kRowSums = kTiles * kTileBytes<kDim>;  // lse [64] and its gradient, after a stage's tiles
  static constexpr int kStageBytes = kRowSums + 2 * kTokens * 4;
  static constexpr int kScores = kStages * kStageBytes;  // P [64, 64], then dS, 16-bit
  static constexpr int kScoreBytes = kTokens * kTokens * 2;
  static constexpr int kWindows = kScores;  // before the first map
  static constexpr int kOutgoing = kScores + 2 * kScoreBytes;  // 16 rows for each warp
  static constexpr int kAddresses = kOutgoing + kTokens * kRowBytes<kStagedDim<kDim>>;
  static constexpr int kSharedBytes = kAddresses + BackwardAddresses::kBytes;
  static constexpr int kBlocks = kDim == 32 ? 3 : 2;  // of a multiprocessor
};

// sum += scores^T . rows, for 32 keys from `first`; scores [64, 64] (query, key).
template <class T, int kDim>
DEV_FN void multiply_by_keys(float (&sum)[2][kDim / 8][4], uint32_t scores, int first, uint32_t tile, int tokens) {
  const int lane = lane_of();
#pragma unroll
  for (int s = 0; s < kTokens / 16; ++s) {
    if (s * 16 >= tokens) break;
    uint32_t a[2][4];
#pragma unroll
    for (int half = 0; half < 2; ++half)
      dev::ldmatrix_x4_trans(a[half], chunk_of(row_of<kTokens>(scores, (lane & 7) + (lane >> 4) * 8),
                                               (first >> 3) + half * 2 + ((lane >> 3) & 1)) +
                                          s * 16 * kRowBytes<kTokens>);
#pragma unroll
    for (int n = 0; n < kDim / 16; ++n) {
      uint32_t b[4];
      dev::ldmatrix_x4_trans(b,
                             chunk_of(row_of<kDim>(tile, lane & 15), n * 2 + (lane >> 4)) + s * 16 * kRowBytes<kDim>);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        dev::mma<T>(sum[half][2 * n], a[half], b[0], b[1]);
        dev::mma<T>(sum[half][2 * n + 1], a[half], b[2], b[3]);
      }
    }
  }
}

// P and dS of the warp's queries to shared memory, dS added to `bias`; dQ.
template <class T, int kDim, int kKeyTiles, bool kBias>
DEV_FN Rounded<kDim> backward_queries(const ForwardParams& p, const float (&table)[kKeyTiles][4],
                                      float (&bias)[kKeyTiles][4], uint32_t stage, uint32_t scores) {
  using Shape = BackwardShape<kDim>;
  constexpr int kTile = kTileBytes<kDim>;
  const uint32_t row_sums = stage + Shape::kRowSums + fragment_row() * 4;
  const float scale = p.scale * kLog2E;
  float weight[kKeyTiles][4] = {}, grad[kKeyTiles][4] = {};  // P; dP, then dS
  {
    const float lse[2] = {dev::lds<float>(row_sums) * kLog2E, dev::lds<float>(row_sums + 32) * kLog2E};
    uint32_t query[kDim / 16][4];
    load_factor<kDim>(query, stage + kQueries * kTile);
#pragma unroll
    for (int n = 0; n < kKeyTiles; ++n) {
      multiply_transposed<T, kDim>(weight[n], query, stage + kKeys * kTile, n * 8);
#pragma unroll
      for (int i = 0; i < 4; ++i) weight[n][i] = dev::ex2(dev::fma(weight[n][i], scale, table[n][i] - lse[i >> 1]));
    }
  }
  float delta[2] = {0, 0};
  {
    uint32_t grad_output[kDim / 16][4];
    load_factor<kDim>(grad_output, stage + kGradOutputs * kTile);
#pragma unroll
    for (int n = 0; n < kKeyTiles; ++n) {
      multiply_transposed<T, kDim>(grad[n], grad_output, stage + kValues * kTile, n * 8);
#pragma unroll
      for (int i = 0; i < 4; ++i) delta[i >> 1] = dev::fma(weight[n][i], grad[n][i], delta[i >> 1]);
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    delta[half] += dev::shfl_xor(delta[half], 1);
    delta[half] += dev::shfl_xor(delta[half], 2);
    delta[half] -= dev::lds<float>(row_sums + kTokens * 4 + half * 32);
  }
  uint32_t factor[(kKeyTiles + 1) / 2][4] = {};  // dS
  const uint32_t to = row_of<kTokens>(scores, fragment_row()) + (lane_of() & 3) * 4;
#pragma unroll
  for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      grad[n][i] = weight[n][i] * (grad[n][i] - delta[i >> 1]);
      if (kBias) bias[n][i] += grad[n][i];
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint32_t at = chunk_of(to, n) + half * 8 * kRowBytes<kTokens>;
      const uint32_t word = dev::pack<T>(grad[n][half * 2], grad[n][half * 2 + 1]);
      dev::sts(at, dev::pack<T>(weight[n][half * 2], weight[n][half * 2 + 1]));
      dev::sts(at + Shape::kScoreBytes, word);
      factor[n / 2][(n & 1) * 2 + half] = word;
    }
  }
  float grad_query[kDim / 8][4] = {};
#pragma unroll
  for (int s = 0; s < (kKeyTiles + 1) / 2; ++s) multiply<T, kDim>(grad_query, factor[s], stage + kKeys * kTile, s * 16);
  return round_rows<T, kDim>(grad_query, p.scale, p.scale);
}

// dV of half of the keys, or dK: scores^T . factor. `free` is a tile that nobody reads.
template <class T, int kDim>
DEV_FN void backward_keys(uint32_t scores, uint32_t factor, uint32_t free, float scale, char* target, uint32_t offsets,
                          int tokens, int chunks) {
  const int first = (warp_of() & 1) * 32;
  if (first >= tokens) return;
  float sum[2][kDim / 8][4] = {};
  multiply_by_keys<T, kDim>(sum, scores, first, factor, tokens);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = first + half * 16;
    store_rows(round_rows<T, kDim>(sum[half], scale, scale), row, free + row * kRowBytes<kDim>, target, offsets, tokens,
               chunks);
  }
}

// Sums `bias`, the sums of dS over the maps of a segment, by offset into the block's `partial`, on top of what is there
// unless the segment is the `first`. Entry e is of thread e % kThreads. `matrix` is shared [64, 64] floats.
template <int kKeyTiles>
DEV_FN void add_entries(float* partial, bool first, const float (&bias)[kKeyTiles][4], uint32_t matrix,
                        const Geometry& geometry, const Segment& segment) {
  dev::syncthreads();
  const auto at = [&](int query, int key) { return matrix + (query * kTokens + (key ^ ((query & 3) << 3))) * 4; };
#pragma unroll
  for (int n = 0; n < kKeyTiles; ++n)
#pragma unroll
    for (int half = 0; half < 2; ++half)
      dev::sts(at(fragment_row() + half * 8, n * 8 + (lane_of() & 3) * 2),
               dev::vec<float, 2>{{bias[n][half * 2], bias[n][half * 2 + 1]}});
  dev::syncthreads();
  for (int entry = static_cast<int>(threadIdx.x); entry < bias_entries(geometry); entry += kThreads) {
    // Queries whose key at the entry's offset is in the map, and its token number less theirs.
    int begin[kRank], end[kRank], step = 0;
    int rest = entry, stride = 1;
#pragma unroll
    for (int axis = kX; axis >= kZ; --axis) {
      const int width = 2 * geometry.kernel[axis] - 1, offset = rest % width - geometry.kernel[axis] + 1;
      rest /= width;
      begin[axis] = offset < 0 ? -offset : 0;
      end[axis] = segment.length[axis] - (offset > 0 ? offset : 0);
      step += offset * stride;
      stride *= segment.length[axis];
    }
    float sum = first ? 0.0f : dev::ldg(partial + entry);
    for (int z = begin[kZ]; z < end[kZ]; ++z)
      for (int y = begin[kY]; y < end[kY]; ++y)
        for (int x = begin[kX]; x < end[kX]; ++x) {
          const int query = (z * segment.length[kY] + y) * segment.length[kX] + x;
          sum += dev::lds<float>(at(query, query + step));
        }
    dev::stg(partial + entry, sum);
  }
}

template <class T, int kDim, int kKeyTiles, bool kBias>
DEV_KERNEL(kThreads, BackwardShape<kDim>::kBlocks)
backward_kernel(BackwardParams p) {
  using Shape = BackwardShape<kDim>;
  constexpr int kStages = Shape::kStages, kTile = kTileBytes<kDim>;
  const ForwardParams& f = p.forward;
  const Geometry& geometry = f.geometry;
  DEV_SMEM(shared);
  const uint32_t scores = shared + Shape::kScores;
  const BackwardAddresses addresses{shared + Shape::kAddresses};
  const int head = static_cast<int>(blockIdx.x) % geometry.heads;
  const int chunk = static_cast<int>(blockIdx.x) / geometry.heads, step = geometry.chunks;
  const int thread = static_cast<int>(threadIdx.x);
  const float* const rpb = f.rpb ? f.rpb + static_cast<int64_t>(head) * bias_entries(geometry) : nullptr;
  addresses.set_view(kQuery, f.query, head);
  addresses.set_view(kKey, f.key, head);
  addresses.set_view(kValue, f.value, head);
  addresses.set_view(kLse, f.lse, head);
  addresses.set_view(kGradOutput, p.grad_output, head);
  addresses.set_view(kGradLse, p.grad_lse, head);
  addresses.set_view(kGradQuery, p.grad_query, head);
  addresses.set_view(kGradKey, p.grad_key, head);
  addresses.set_view(kGradValue, p.grad_value, head);

  for (int number = 0; number < geometry.segments; ++number) {
    const Segment& segment = geometry.segment[number];
    const int tokens = tokens_of(segment);
    dev::syncthreads();
    addresses.find_offsets(geometry, segment);
    fill_windows(shared + Shape::kWindows, geometry, segment);
    if (warp_of() == kWarps - 1)
      for (int slot = 0; slot < kStages; ++slot) addresses.find_starts(segment, chunk + slot * step, slot);
    dev::syncthreads();

    const auto load = [&](int map, int slot) {
      if (map < segment.maps) {
        const uint32_t stage = shared + (slot % kStages) * Shape::kStageBytes;
        const auto tile = [&](Tile to, int member, const View& view, int chunks) {
          load_rows<kDim>(stage + to * kTile, view.data + addresses.start(member, slot), addresses.offsets(member),
                          tokens, chunks);
        };
        tile(kQueries, kQuery, f.query, f.chunks_qk);
        tile(kKeys, kKey, f.key, f.chunks_qk);
        tile(kValues, kValue, f.value, f.chunks_v);
        tile(kGradOutputs, kGradOutput, p.grad_output, f.chunks_v);
        const bool first = thread < kTokens;
        const int row = thread & (kTokens - 1), member = first ? int{kLse} : int{kGradLse};
        const char* const source = (first ? f.lse.data : p.grad_lse.data) + addresses.start(member, slot) +
                                   dev::lds<uint32_t>(addresses.offsets(member) + row * 4);
        dev::cp_async<4>(stage + Shape::kRowSums + thread * 4, source,
                         row < tokens && (first || p.grad_lse.data != nullptr));
      }
      dev::cp_async_commit();
    };
    if (kStages == 2) load(chunk, 0);
    float table[kKeyTiles][4], bias[kKeyTiles][4] = {};
    load_table<kKeyTiles>(table, shared + Shape::kWindows, geometry, segment, rpb);
    dev::syncthreads();
    if (kKeyTiles == 7)  // keys that no warp writes scores of
      dev::sts(chunk_of(row_of<kTokens>(scores + (thread >> 6) * Shape::kScoreBytes, thread & 63), 7), dev::u128{});

    int slot = 0;
    for (int map = chunk; map < segment.maps; map += step, ++slot) {
      if (kStages == 1) load(map, slot);
      dev::cp_async_wait<0>();
      dev::syncthreads();
      if (kStages == 2) load(map + step, slot + 1);
      if (warp_of() == kWarps - 1) addresses.find_starts(segment, map + kStages * step, slot + kStages);
      const uint32_t stage = shared + (slot % kStages) * Shape::kStageBytes;
      if (warp_of() * 16 < tokens) {
        const auto grad_query = backward_queries<T, kDim, kKeyTiles, kBias>(f, table, bias, stage, scores);
        store_rows(grad_query, warp_of() * 16, shared + Shape::kOutgoing + warp_of() * 16 * kRowBytes<kStagedDim<kDim>>,
                   p.grad_query.data + addresses.start(kGradQuery, slot), addresses.offsets(kGradQuery), tokens,
                   f.chunks_qk);
      }
      dev::syncthreads();
      const bool of_keys = warp_of() >= kWarps / 2;
      const int member = of_keys ? int{kGradKey} : int{kGradValue};
      backward_keys<T, kDim>(scores + (of_keys ? Shape::kScoreBytes : 0),
                             stage + (of_keys ? kQueries : kGradOutputs) * kTile,
                             stage + (of_keys ? kKeys : kValues) * kTile, of_keys ? f.scale : 1,
                             (of_keys ? p.grad_key.data : p.grad_value.data) + addresses.start(member, slot),
                             addresses.offsets(member), tokens, of_keys ? f.chunks_qk : f.chunks_v);
      if (kStages == 1) dev::syncthreads();
    }
    if constexpr (kBias)
      add_entries<kKeyTiles>(p.partial + static_cast<int64_t>(blockIdx.x) * bias_entries(geometry), number == 0, bias,
                             scores, geometry, segment);
  }
}

template <class T, int kDim, int kKeyTiles>
void start_backward(const BackwardParams& params, const Launch& launch) {
  const Geometry& geometry = params.forward.geometry;
  const unsigned blocks = static_cast<unsigned>(geometry.heads) * geometry.chunks;
  dev::start(params.partial ? backward_kernel<T, kDim, kKeyTiles, true> : backward_kernel<T, kDim, kKeyTiles, false>,
             {blocks, 1, 1}, kThreads, BackwardShape<kDim>::kSharedBytes, launch, params);
}

}  // namespace natten_core::cuda::dense
