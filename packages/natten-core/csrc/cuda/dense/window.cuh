// What a block knows of the maps of a segment: where tokens lie in memory, and biases and masks.
#pragma once

#include "cuda/dense/params.h"
#include "cuda/dense/tile.cuh"

namespace natten_core::cuda::dense {

DEV_FN int tokens_of(const Segment& segment) { return segment.length[kZ] * segment.length[kY] * segment.length[kX]; }

struct Token {
  int axis[kRank];
};
DEV_FN Token token_of(const Segment& segment, int token) {
  const int row = token / segment.length[kX], plane = row / segment.length[kY];
  return {{plane, row - plane * segment.length[kY], token - row * segment.length[kX]}};
}

// What shared memory knows of `kCount` tensors: their views, for the block's head; the byte offsets of the tokens of a
// map from its first; and where the maps in flight start. A warp finds the starts of a map, a lane for each tensor,
// some maps ahead, so that the others need not.
template <int kCount>
struct Addresses : AddressShape<kCount> {
  using AddressShape<kCount>::kRing, AddressShape<kCount>::kViews, AddressShape<kCount>::kStarts;
  uint32_t shared;

  explicit DEV_FN Addresses(uint32_t at) : shared(at) {}

  DEV_FN void set_view(int member, const View& view, int head) const {
    if (static_cast<int>(threadIdx.x) != member) return;
    const uint32_t to = shared + kViews + member * 32;
    dev::sts(to, dev::vec<int64_t, 2>{{head * view.head, view.batch}});
    dev::sts(to + 16, dev::vec<int32_t, 4>{{view.axis[0], view.axis[1], view.axis[2], 0}});
  }
  DEV_FN void find_offsets(const Geometry& geometry, const Segment& segment) const {
    if (threadIdx.x >= kTokens) return;
    const int t = static_cast<int>(threadIdx.x);
    const Token token = token_of(segment, t);
#pragma unroll
    for (int member = 0; member < kCount; ++member) {
      const auto axis = dev::lds<dev::vec<int32_t, 4>>(shared + kViews + member * 32 + 16);
      int offset = 0;
#pragma unroll
      for (int a = 0; a < kRank; ++a) offset += token.axis[a] * geometry.dilation[a] * axis[a];
      dev::sts(offsets(member) + t * 4, t < tokens_of(segment) ? offset : 0);
    }
  }
  DEV_FN void find_starts(const Segment& segment, int map, int slot) const {
    const int member = lane_of();
    if (member >= kCount) return;
    const auto head_batch = dev::lds<dev::vec<int64_t, 2>>(shared + kViews + member * 32);
    const auto axis = dev::lds<dev::vec<int32_t, 4>>(shared + kViews + member * 32 + 16);
    const Place place = place_of(segment, map);
    const int within = place.group[0] * axis[0] + place.group[1] * axis[1] + place.group[2] * axis[2];
    dev::sts(shared + kStarts + ((slot & (kRing - 1)) * kCount + member) * 8,
             head_batch[0] + place.batch * head_batch[1] + within);
  }

  DEV_FN uint32_t offsets(int member) const { return shared + member * kTokens * 4; }
  // Bytes from the tensor's first element.
  DEV_FN int64_t start(int member, int slot) const {
    return dev::lds<int64_t>(shared + kStarts + ((slot & (kRing - 1)) * kCount + member) * 8);
  }
};

DEV_FN int bias_entry(const Geometry& geometry, int z, int y, int x) {
  return (z * (2 * geometry.kernel[kY] - 1) + y) * (2 * geometry.kernel[kX] - 1) + x;
}
DEV_FN int bias_entries(const Geometry& geometry) { return bias_entry(geometry, 2 * geometry.kernel[kZ] - 1, 0, 0); }

// windows [3][64]: of each token the place, and the start of the window, three axes in a byte each; and the bias entry.
// The places' bytes have bit 7 set, so that bytes can be subtracted without borrowing.
constexpr uint32_t kGuards = 0x808080u;

DEV_FN void fill_windows(uint32_t windows, const Geometry& geometry, const Segment& segment) {
  if (threadIdx.x >= kTokens) return;
  const Token token = token_of(segment, static_cast<int>(threadIdx.x));
  uint32_t place = kGuards, start = 0;
#pragma unroll
  for (int axis = 0; axis < kRank; ++axis) {
    const int first = window_begin<int>(token.axis[axis], segment.length[axis], geometry.kernel[axis], 1, false);
    place |= static_cast<uint32_t>(token.axis[axis] & 127) << (8 * (2 - axis));
    start |= static_cast<uint32_t>(first & 127) << (8 * (2 - axis));
  }
  dev::sts(windows + threadIdx.x * 4, place);
  dev::sts(windows + (kTokens + threadIdx.x) * 4, start);
  dev::sts(windows + (2 * kTokens + threadIdx.x) * 4,
           bias_entry(geometry, token.axis[kZ], token.axis[kY], token.axis[kX]));
}

// The C fragments of biases times log2(e), minus infinity where the key is not in the window. Rows beyond the map are
// not masked: a softmax over nothing would not be a number.
template <int kKeyTiles>
DEV_FN void load_table(float (&table)[kKeyTiles][4], uint32_t windows, const Geometry& geometry, const Segment& segment,
                       const float* rpb) {
  const int tokens = tokens_of(segment);
  const int origin = bias_entry(geometry, geometry.kernel[kZ] - 1, geometry.kernel[kY] - 1, geometry.kernel[kX] - 1);
  const uint32_t last = kGuards | static_cast<uint32_t>(geometry.kernel[kZ] - 1) << 16 |
                        static_cast<uint32_t>(geometry.kernel[kY] - 1) << 8 |
                        static_cast<uint32_t>(geometry.kernel[kX] - 1);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int query = fragment_row() + half * 8;
    const auto start = dev::lds<uint32_t>(windows + (kTokens + query) * 4);
    const int from = origin - dev::lds<int>(windows + (2 * kTokens + query) * 4);
#pragma unroll
    for (int n = 0; n < kKeyTiles; ++n)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int key = n * 8 + (lane_of() & 3) * 2 + i;
        const uint32_t ahead = dev::lds<uint32_t>(windows + key * 4) - start;
        const uint32_t left = last - (ahead & ~kGuards);
        const bool seen = key < tokens && (query >= tokens || (ahead & left & kGuards) == kGuards);
        float bias = 0;
        if (seen && rpb && query < tokens)
          bias = dev::ldg(rpb + from + dev::lds<int>(windows + (2 * kTokens + key) * 4)) * dev::kLog2e;
        table[n][half * 2 + i] = seen ? bias : -INFINITY;
      }
  }
}

}  // namespace natten_core::cuda::dense
