// What the dense kernels have in shared memory, by element type (half, bf16, tf32) and head_dim (32, 64, 128): plain
// numbers, that the plan asks too.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda/dense/params.h"
#include "cuda/device/launch.h"
#include "cuda/device/types.h"

namespace natten_core::cuda::dense {

template <class T, int kDim>
inline constexpr int kRowBytes = kDim * static_cast<int>(sizeof(T));

template <class T, int kDim>
inline constexpr int kTileBytes = kTokens * kRowBytes<T, kDim>;

// Where the tokens of `kCount` tensors lie: see Addresses.
template <int kCount>
struct AddressShape {
  static constexpr int kRing = 4;  // maps
  static constexpr int kViews = kCount * kTokens * 4, kStarts = kViews + kCount * 32;
  static constexpr int kBytes = kStarts + kRing * kCount * 8;
};

// windows [3][64]: see fill_windows.
constexpr int kWindowBytes = kTokens * 3 * 4;

template <class T, int kDim>
struct ForwardShape {
  static constexpr int kBytes = kRowBytes<T, kDim>;
  static constexpr int kStages = kBytes <= 128 ? 3 : kBytes == 256 ? 2 : 1;
  static constexpr int kStageBytes = 3 * kTileBytes<T, kDim>;
  static constexpr int kAddresses = kStages * kStageBytes;
  static constexpr int kWindows = kAddresses + AddressShape<kForwardMembers>::kBytes;
  static constexpr int kSharedBytes = kWindows + kWindowBytes;

  // Of a multiprocessor: what registers are for, where shared memory holds as many.
  static constexpr int blocks(int limit) {
    return std::min(kBytes == 64 ? 4 : kBytes == 128 ? 3 : 2, blocks_in(limit, kSharedBytes));
  }
};

// 16-bit rows go out by way of shared memory, this many columns at a time. tf32 rows need not.
template <class T, int kDim>
inline constexpr int kStagedDim = !dev::is_16_bit<T> ? 0
                                  : kDim < 64        ? kDim
                                                     : 64;

template <class T, int kDim>
struct BackwardShape {
  // One stage where two do not leave room for more blocks. That of tf32 is filled in halves, the one for the next map
  // as soon as nobody needs what is there.
  static constexpr bool kHalves = !dev::is_16_bit<T>;
  static constexpr int kStages = kHalves || kDim == 128 ? 1 : 2;
  static constexpr int kRowSums = 4 * kTileBytes<T, kDim>;  // lse [64] and its gradient, after a stage's tiles
  static constexpr int kStageBytes = kRowSums + (kHalves ? 0 : 2 * kTokens * 4);
  static constexpr int kScores = kStages * kStageBytes;  // P [64, 64], then dS
  static constexpr int kWindows = kScores;  // before the first map
  static constexpr int kOutgoing = kScores + 2 * kTokens * kRowBytes<T, kTokens>;  // 16 rows for each warp
  static constexpr int kAddresses = kOutgoing + kTileBytes<T, kStagedDim<T, kDim>>;
  static constexpr int kSharedBytes = kAddresses + AddressShape<kBackwardMembers>::kBytes;

  static constexpr int blocks(int limit) { return std::min(kDim == 32 ? 3 : 2, blocks_in(limit, kSharedBytes)); }
};

}  // namespace natten_core::cuda::dense
