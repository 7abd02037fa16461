// Forward: a block takes map after map of one head, copies the next ones in while it computes, and keeps the biases in
// registers. Warp w has queries 16w .. 16w + 15 and all keys, so that the softmax is exact and in registers.
#pragma once

#include "cuda/dense/store.cuh"
#include "cuda/dense/window.cuh"
#include "cuda/device/start.h"

namespace natten_core::cuda::dense {

using ForwardAddresses = Addresses<kForwardMembers>;

// One map, whose rows are in `stage`.
template <class T, int kDim, int kKeyTiles>
DEV_FN void forward_map(const ForwardParams& p, const float (&table)[kKeyTiles][4], uint32_t stage,
                        const ForwardAddresses& addresses, int slot, int tokens) {
  constexpr int kTile = kTileBytes<T, kDim>;
  const float scale = p.scale * dev::kLog2e;
  float score[kKeyTiles][4] = {};
  {
    uint32_t query[kDim / kStep<T>][4];
    load_factor<T, kDim>(query, stage);
#pragma unroll
    for (int n = 0; n < kKeyTiles; ++n) multiply_transposed<T, kDim>(score[n], query, stage + kTile, n * 8);
  }
  float most[2] = {-INFINITY, -INFINITY};
#pragma unroll
  for (int n = 0; n < kKeyTiles; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      score[n][i] = dev::fma(score[n][i], scale, table[n][i]);
      most[i >> 1] = dev::max(most[i >> 1], score[n][i]);
    }
  float sum[2] = {0, 0};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    most[half] = dev::max(most[half], dev::shfl_xor(most[half], 1));
    most[half] = dev::max(most[half], dev::shfl_xor(most[half], 2));
  }
#pragma unroll
  for (int n = 0; n < kKeyTiles; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      score[n][i] = dev::ex2(score[n][i] - most[i >> 1]);
      sum[i >> 1] += score[n][i];
    }
  float result[1][kDim / 8][4] = {};
  uint32_t weight[kSteps<T, kKeyTiles>][1][4] = {};
#pragma unroll
  for (int n = 0; n < kKeyTiles; ++n) put_tile<T>(weight, n, round_tile<T>(score[n]));
#pragma unroll
  for (int s = 0; s < kSteps<T, kKeyTiles>; ++s) multiply<T, kDim>(result, weight[s], stage + 2 * kTile, s * kStep<T>);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    sum[half] += dev::shfl_xor(sum[half], 1);
    sum[half] += dev::shfl_xor(sum[half], 2);
  }
  // The query rows of the warp are its own: nobody else reads them.
  store_rows(round_rows<T, kDim>(result[0], dev::rcp(sum[0]), dev::rcp(sum[1])), warp_of() * 16,
             stage + warp_of() * 16 * kRowBytes<T, kDim>, p.output.data + addresses.start(kOutput, slot),
             addresses.offsets(kOutput), tokens, p.chunks_v);
  if (p.lse.data == nullptr || (lane_of() & 3) != 0) return;
  char* const lse = p.lse.data + addresses.start(kLse, slot);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = fragment_row() + half * 8;
    if (row < tokens)
      dev::stg(reinterpret_cast<float*>(lse + dev::lds<uint32_t>(addresses.offsets(kLse) + row * 4)),
               (most[half] + dev::lg2(sum[half])) * dev::kLn2);
  }
}

template <class T, int kDim, int kKeyTiles>
DEV_KERNEL(kThreads, ForwardShape<T, kDim>::blocks(kSharedLimit))
forward_kernel(ForwardParams p) {
  using Shape = ForwardShape<T, kDim>;
  constexpr int kStages = Shape::kStages, kTile = kTileBytes<T, kDim>, kBytes = kRowBytes<T, kDim>;
  DEV_SMEM(shared);
  const uint32_t windows = shared + Shape::kWindows;
  const ForwardAddresses addresses{shared + Shape::kAddresses};
  const int head = static_cast<int>(blockIdx.x) % p.geometry.heads;
  const int chunk = static_cast<int>(blockIdx.x) / p.geometry.heads, step = p.geometry.chunks;
  const float* const rpb = p.rpb ? p.rpb + static_cast<int64_t>(head) * bias_entries(p.geometry) : nullptr;
  addresses.set_view(kQuery, p.query, head);
  addresses.set_view(kKey, p.key, head);
  addresses.set_view(kValue, p.value, head);
  addresses.set_view(kOutput, p.output, head);
  addresses.set_view(kLse, p.lse, head);

  for (int number = 0; number < p.geometry.segments; ++number) {
    const Segment& segment = p.geometry.segment[number];
    const int tokens = tokens_of(segment);
    dev::syncthreads();
    addresses.find_offsets(p.geometry, segment);
    fill_windows(windows, p.geometry, segment);
    if (warp_of() == kWarps - 1)
      for (int slot = 0; slot < kStages; ++slot) addresses.find_starts(segment, chunk + slot * step, slot);
    dev::syncthreads();

    const auto load = [&](int map, int slot, int stage) {
      if (map < segment.maps) {
        const uint32_t tile = shared + stage * Shape::kStageBytes;
        load_rows<kBytes>(tile, p.query.data + addresses.start(kQuery, slot), addresses.offsets(kQuery), tokens,
                          p.chunks_qk);
        load_rows<kBytes>(tile + kTile, p.key.data + addresses.start(kKey, slot), addresses.offsets(kKey), tokens,
                          p.chunks_qk);
        load_rows<kBytes>(tile + 2 * kTile, p.value.data + addresses.start(kValue, slot), addresses.offsets(kValue),
                          tokens, p.chunks_v);
      }
      dev::cp_async_commit();
    };
    const auto round_stage = [&](int stage) {
#pragma unroll
      for (int tile = 0; tile < 3; ++tile) round_copied<T, kDim>(shared + stage * Shape::kStageBytes + tile * kTile);
    };
#pragma unroll
    for (int stage = 0; stage < kStages - 1; ++stage) load(chunk + stage * step, stage, stage);
    float table[kKeyTiles][4];
    load_table<kKeyTiles>(table, windows, p.geometry, segment, rpb);

    int stage = 0, free_stage = kStages - 1, slot = 0;
    for (int map = chunk; map < segment.maps; map += step, ++slot) {
      if constexpr (kStages == 1) {
        if (slot > 0) dev::syncthreads();
        load(map, slot, 0);
        dev::cp_async_wait<0>();
        round_stage(0);
        dev::syncthreads();
      } else {
        dev::cp_async_wait<kStages - 2>();
        round_stage(stage);
        dev::syncthreads();
        load(map + (kStages - 1) * step, slot + kStages - 1, free_stage);
      }
      if (warp_of() == kWarps - 1) addresses.find_starts(segment, map + kStages * step, slot + kStages);
      if (warp_of() * 16 < tokens)
        forward_map<T, kDim, kKeyTiles>(p, table, shared + stage * Shape::kStageBytes, addresses, slot, tokens);
      free_stage = stage;
      stage = stage + 1 == kStages ? 0 : stage + 1;
    }
    dev::cp_async_wait<0>();
  }
}

template <class T, int kDim, int kKeyTiles>
void start_forward(const ForwardParams& params, const Launch& launch) {
  const unsigned blocks = static_cast<unsigned>(params.geometry.heads) * params.geometry.chunks;
  dev::start(forward_kernel<T, kDim, kKeyTiles>, {blocks, 1, 1}, kThreads, ForwardShape<T, kDim>::kSharedBytes, launch,
             params);
}

}  // namespace natten_core::cuda::dense
