// Backward in one pass: a block takes map after map of one head, reads each of query, key, value and the output's
// gradient once, and writes each gradient once. The output is not needed: its product with its gradient, delta, is
// the sum of P (dO.V^T) over keys.
//
// First warp w has queries 16w .. 16w + 15: P and dS = P (dO.V^T - delta), rounded into shared memory, and dQ = dS.K.
// Then warps 0 and 1 have half of the keys each, of dV = P^T.dO, and warps 2 and 3 of dK = dS^T.Q. The gradient of the
// bias is summed in registers over the maps of a segment, then by offset in a fixed order: one partial sum per block.
#pragma once

#include "cuda/dense/backward_bias.cuh"
#include "cuda/dense/scores.cuh"
#include "cuda/dense/store.cuh"
#include "cuda/dense/window.cuh"
#include "cuda/device/start.h"

namespace natten_core::cuda::dense {

using BackwardAddresses = Addresses<kBackwardMembers>;

// Tiles of a stage.
enum Tile { kQueries, kKeys, kValues, kGradOutputs, kTiles };

// sum += scores^T . rows, for 16 keys a part from `first`.
template <class T, int kDim, int kParts>
DEV_FN void multiply_by_keys(float (&sum)[kParts][kDim / 8][4], const Scores<T>& scores, int matrix, int first,
                             uint32_t tile, int tokens) {
#pragma unroll
  for (int s = 0; s < kTokens / kStep<T>; ++s) {
    if (s * kStep<T> >= tokens) break;
    uint32_t a[kParts][4];
#pragma unroll
    for (int part = 0; part < kParts; ++part) scores.load_transposed(a[part], matrix, first + part * 16, s);
    multiply<T, kDim>(sum, a, tile, s * kStep<T>);
  }
}

// P and dS of the warp's queries to `scores`, dS added to `bias`; dQ. `lse_of` and `grad_lse_of` know the lane's rows.
template <class T, int kDim, int kKeyTiles, bool kBias, class Lse, class GradLse>
DEV_FN Rounded<T, kDim> backward_queries(const ForwardParams& p, const float (&table)[kKeyTiles][4],
                                         float (&bias)[kKeyTiles][4], int tokens, uint32_t stage,
                                         const Scores<T>& scores, const Lse& lse_of, const GradLse& grad_lse_of) {
  constexpr int kTile = kTileBytes<T, kDim>;
  // Where the rows of all keys, loaded ahead, would leave too few registers, a branch ends the code that nvcc reorders.
  constexpr bool kEndBlocks = !dev::is_16_bit<T> || kKeyTiles == 8;
  const float scale = p.scale * dev::kLog2e;
  float weight[kKeyTiles][4] = {}, grad[kKeyTiles][4] = {};  // P; dP, then dS
  {
    const float lse[2] = {lse_of(0) * dev::kLog2e, lse_of(1) * dev::kLog2e};
    uint32_t query[kDim / kStep<T>][4];
    load_factor<T, kDim>(query, stage + kQueries * kTile);
#pragma unroll
    for (int n = 0; n < kKeyTiles; ++n) {
      if (kEndBlocks && n * 8 >= tokens) break;
      multiply_transposed<T, kDim>(weight[n], query, stage + kKeys * kTile, n * 8);
#pragma unroll
      for (int i = 0; i < 4; ++i) weight[n][i] = dev::ex2(dev::fma(weight[n][i], scale, table[n][i] - lse[i >> 1]));
    }
  }
  float delta[2] = {0, 0};
  {
    uint32_t grad_output[kDim / kStep<T>][4];
    load_factor<T, kDim>(grad_output, stage + kGradOutputs * kTile);
#pragma unroll
    for (int n = 0; n < kKeyTiles; ++n) {
      if (kEndBlocks && n * 8 >= tokens) break;
      multiply_transposed<T, kDim>(grad[n], grad_output, stage + kValues * kTile, n * 8);
#pragma unroll
      for (int i = 0; i < 4; ++i) delta[i >> 1] = dev::fma(weight[n][i], grad[n][i], delta[i >> 1]);
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    delta[half] += dev::shfl_xor(delta[half], 1);
    delta[half] += dev::shfl_xor(delta[half], 2);
    delta[half] -= grad_lse_of(half);
  }
  uint32_t factor[kSteps<T, kKeyTiles>][1][4] = {};  // dS
#pragma unroll
  for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      grad[n][i] = weight[n][i] * (grad[n][i] - delta[i >> 1]);
      if (kBias) bias[n][i] += grad[n][i];
    }
    const TileWords<T> words = round_tile<T>(grad[n]);
    scores.put(n, round_tile<T>(weight[n]), words);
    put_tile<T>(factor, n, words);
  }
  float grad_query[1][kDim / 8][4] = {};
#pragma unroll
  for (int s = 0; s < kSteps<T, kKeyTiles>; ++s)
    multiply<T, kDim>(grad_query, factor[s], stage + kKeys * kTile, s * kStep<T>);
  return round_rows<T, kDim>(grad_query[0], p.scale, p.scale);
}

// dV of half of the keys, or dK: scores^T . factor. `free` is a tile that nobody reads.
template <class T, int kDim>
DEV_FN void backward_keys(const Scores<T>& scores, int matrix, uint32_t factor, uint32_t free, float scale,
                          char* target, uint32_t offsets, int tokens, int chunks) {
  constexpr int kParts = kRowBytes<T, kDim> > 256 ? 1 : 2;  // both at once, where there are registers for it
#pragma unroll
  for (int i = 0; i < 2; i += kParts) {
    const int first = (warp_of() & 1) * 32 + i * 16;
    if (first >= tokens) return;
    float sum[kParts][kDim / 8][4] = {};
    multiply_by_keys<T, kDim>(sum, scores, matrix, first, factor, tokens);
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const int row = first + part * 16;
      store_rows(round_rows<T, kDim>(sum[part], scale, scale), row, free + row * kRowBytes<T, kDim>, target, offsets,
                 tokens, chunks);
    }
  }
}

template <class T, int kDim, int kKeyTiles, bool kBias>
DEV_KERNEL(kThreads, BackwardShape<T, kDim>::blocks(kSharedLimit))
backward_kernel(BackwardParams p) {
  using Shape = BackwardShape<T, kDim>;
  constexpr int kStages = Shape::kStages, kTile = kTileBytes<T, kDim>, kBytes = kRowBytes<T, kDim>;
  constexpr bool kHalves = Shape::kHalves;
  const ForwardParams& f = p.forward;
  const Geometry& geometry = f.geometry;
  DEV_SMEM(shared);
  const Scores<T> scores{shared + Shape::kScores};
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

    const auto load_tile = [&](int map, int slot, Tile to, int member, const View& view, int chunks) {
      if (map < segment.maps)
        load_rows<kBytes>(shared + (slot % kStages) * Shape::kStageBytes + to * kTile,
                          view.data + addresses.start(member, slot), addresses.offsets(member), tokens, chunks);
    };
    const auto load_keys = [&](int map, int slot) {
      load_tile(map, slot, kKeys, kKey, f.key, f.chunks_qk);
      load_tile(map, slot, kValues, kValue, f.value, f.chunks_v);
    };
    const auto load_queries = [&](int map, int slot) {
      load_tile(map, slot, kQueries, kQuery, f.query, f.chunks_qk);
      load_tile(map, slot, kGradOutputs, kGradOutput, p.grad_output, f.chunks_v);
    };
    const auto row_sum = [&](bool gradient, int row, int slot) {
      const int member = gradient ? int{kGradLse} : int{kLse};
      return reinterpret_cast<const float*>((gradient ? p.grad_lse.data : f.lse.data) + addresses.start(member, slot) +
                                            dev::lds<uint32_t>(addresses.offsets(member) + row * 4));
    };
    const auto has_row_sum = [&](bool gradient, int row) {
      return row < tokens && (!gradient || p.grad_lse.data != nullptr);
    };
    const auto read_row_sum = [&](bool gradient, int half, int slot) {
      const int row = fragment_row() + half * 8;
      return has_row_sum(gradient, row) ? dev::ldg(row_sum(gradient, row, slot)) : 0.0f;
    };
    // All of a map; lse and its gradient by a thread each.
    const auto load = [&](int map, int slot) {
      load_queries(map, slot);
      load_keys(map, slot);
      if (map < segment.maps) {
        const bool gradient = thread >= kTokens;
        const int row = thread & (kTokens - 1);
        dev::cp_async<4>(shared + (slot % kStages) * Shape::kStageBytes + Shape::kRowSums + thread * 4,
                         row_sum(gradient, row, slot), has_row_sum(gradient, row));
      }
      dev::cp_async_commit();
    };
    if (kStages == 2) load(chunk, 0);
    if (kHalves) load_keys(chunk, 0);
    float table[kKeyTiles][4], bias[kKeyTiles][4] = {};
    load_table<kKeyTiles>(table, shared + Shape::kWindows, geometry, segment, rpb);
    dev::syncthreads();
    if (kKeyTiles == 7) scores.clear_last();

    int slot = 0;
    for (int map = chunk; map < segment.maps; map += step, ++slot) {
      float lse[2] = {0, 0};
      if constexpr (kHalves) {
        load_queries(map, slot);
        dev::cp_async_commit();
#pragma unroll
        for (int half = 0; half < 2; ++half) lse[half] = read_row_sum(false, half, slot);
      } else if (kStages == 1) {
        load(map, slot);
      }
      dev::cp_async_wait<0>();
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) round_copied<T, kDim>(shared + tile * kTile);
      dev::syncthreads();
      if (kStages == 2) load(map + step, slot + 1);
      if (warp_of() == kWarps - 1) addresses.find_starts(segment, map + kStages * step, slot + kStages);
      const uint32_t stage = shared + (slot % kStages) * Shape::kStageBytes;
      if (warp_of() * 16 < tokens) {
        const uint32_t sums = stage + Shape::kRowSums + fragment_row() * 4;
        const auto grad_query = backward_queries<T, kDim, kKeyTiles, kBias>(
            f, table, bias, tokens, stage, scores,
            [&](int half) { return kHalves ? lse[half] : dev::lds<float>(sums + half * 32); },
            [&](int half) {
              return kHalves ? read_row_sum(true, half, slot) : dev::lds<float>(sums + (kTokens + half * 8) * 4);
            });
        store_rows(
            grad_query, warp_of() * 16, shared + Shape::kOutgoing + warp_of() * 16 * kRowBytes<T, kStagedDim<T, kDim>>,
            p.grad_query.data + addresses.start(kGradQuery, slot), addresses.offsets(kGradQuery), tokens, f.chunks_qk);
      }
      dev::syncthreads();
      if (kHalves) load_keys(map + step, slot + 1);
      const bool of_keys = warp_of() >= kWarps / 2;
      const int member = of_keys ? int{kGradKey} : int{kGradValue};
      backward_keys<T, kDim>(scores, of_keys ? 1 : 0, stage + (of_keys ? kQueries : kGradOutputs) * kTile,
                             stage + (of_keys ? kKeys : kValues) * kTile, of_keys ? f.scale : 1,
                             (of_keys ? p.grad_key.data : p.grad_value.data) + addresses.start(member, slot),
                             addresses.offsets(member), tokens, of_keys ? f.chunks_qk : f.chunks_v);
      if (kStages == 1) dev::syncthreads();
    }
    if constexpr (kBias)
      add_entries<kKeyTiles>(p.partial + static_cast<int64_t>(blockIdx.x) * bias_entries(geometry), number == 0, bias,
                             scores.shared, geometry, segment);
  }
}

template <class T, int kDim, int kKeyTiles>
void start_backward(const BackwardParams& params, const Launch& launch) {
  const Geometry& geometry = params.forward.geometry;
  const unsigned blocks = static_cast<unsigned>(geometry.heads) * geometry.chunks;
  dev::start(params.partial ? backward_kernel<T, kDim, kKeyTiles, true> : backward_kernel<T, kDim, kKeyTiles, false>,
             {blocks, 1, 1}, kThreads, BackwardShape<T, kDim>::kSharedBytes, launch, params);
}

}  // namespace natten_core::cuda::dense
