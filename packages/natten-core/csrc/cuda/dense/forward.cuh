// Forward: a block takes map after map of one head, copies the next ones in while it computes, and keeps the biases in
// registers. Warp w has queries 16w .. 16w + 15 and all keys, so that the softmax is exact and in registers.
#pragma once

#include "cuda/dense/window.cuh"
#include "cuda/device/start.h"

namespace natten_core::cuda::dense {

template <int kDim>
struct ForwardShape {
  static constexpr int kStages = kDim == 128 ? 2 : 3;
  static constexpr int kStageBytes = 3 * kTileBytes<kDim>;
  static constexpr int kAddresses = kStages * kStageBytes;
  static constexpr int kWindows = kAddresses + Addresses<kForwardMembers>::kBytes;
  static constexpr int kSharedBytes = kWindows + kWindowBytes;
  static constexpr int kBlocks = kDim == 32 ? 4 : kDim == 64 ? 3 : 2;  // of a multiprocessor
};

using ForwardAddresses = Addresses<kForwardMembers>;

// One map, whose rows are in `stage`.
template <class T, int kDim, int kKeyTiles>
DEV_FN void forward_map(const ForwardParams& p, const float (&table)[kKeyTiles][4], uint32_t stage,
                        const ForwardAddresses& addresses, int slot, int tokens) {
  constexpr int kTile = kTileBytes<kDim>;
  const float scale = p.scale * kLog2E;
  float score[kKeyTiles + (kKeyTiles & 1)][4] = {};
  {
    uint32_t query[kDim / 16][4];
    load_factor<kDim>(query, stage);
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
  float result[kDim / 8][4] = {};
#pragma unroll
  for (int s = 0; s < (kKeyTiles + 1) / 2; ++s) {
    const float (&left)[4] = score[2 * s], (&right)[4] = score[2 * s + 1];
    const uint32_t weight[4] = {dev::pack<T>(left[0], left[1]), dev::pack<T>(left[2], left[3]),
                                dev::pack<T>(right[0], right[1]), dev::pack<T>(right[2], right[3])};
    multiply<T, kDim>(result, weight, stage + 2 * kTile, s * 16);
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    sum[half] += dev::shfl_xor(sum[half], 1);
    sum[half] += dev::shfl_xor(sum[half], 2);
  }
  // The query rows of the warp are its own: nobody else reads them.
  store_rows(round_rows<T, kDim>(result, dev::rcp(sum[0]), dev::rcp(sum[1])), warp_of() * 16,
             stage + warp_of() * 16 * kRowBytes<kDim>, p.output.data + addresses.start(kOutput, slot),
             addresses.offsets(kOutput), tokens, p.chunks_v);
  if (p.lse.data == nullptr || (lane_of() & 3) != 0) return;
  char* const lse = p.lse.data + addresses.start(kLse, slot);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = fragment_row() + half * 8;
    if (row < tokens)
      dev::stg(reinterpret_cast<float*>(lse + dev::lds<uint32_t>(addresses.offsets(kLse) + row * 4)),
               (most[half] + dev::lg2(sum[half])) * kLn2);
  }
}

template <class T, int kDim, int kKeyTiles>
DEV_KERNEL(kThreads, ForwardShape<kDim>::kBlocks)
forward_kernel(ForwardParams p) {
  using Shape = ForwardShape<kDim>;
  constexpr int kStages = Shape::kStages, kTile = kTileBytes<kDim>;
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
        load_rows<kDim>(tile, p.query.data + addresses.start(kQuery, slot), addresses.offsets(kQuery), tokens,
                        p.chunks_qk);
        load_rows<kDim>(tile + kTile, p.key.data + addresses.start(kKey, slot), addresses.offsets(kKey), tokens,
                        p.chunks_qk);
        load_rows<kDim>(tile + 2 * kTile, p.value.data + addresses.start(kValue, slot), addresses.offsets(kValue),
                        tokens, p.chunks_v);
      }
      dev::cp_async_commit();
    };
#pragma unroll
    for (int stage = 0; stage < kStages - 1; ++stage) load(chunk + stage * step, stage, stage);
    float table[kKeyTiles][4];
    load_table<kKeyTiles>(table, windows, p.geometry, segment, rpb);

    int stage = 0, free_stage = kStages - 1, slot = 0;
    for (int map = chunk; map < segment.maps; map += step, ++slot) {
      dev::cp_async_wait<kStages - 2>();
      dev::syncthreads();
      load(map + (kStages - 1) * step, slot + kStages - 1, free_stage);
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
  dev::start(forward_kernel<T, kDim, kKeyTiles>, {blocks, 1, 1}, kThreads, ForwardShape<kDim>::kSharedBytes, launch,
             params);
}

}  // namespace natten_core::cuda::dense
