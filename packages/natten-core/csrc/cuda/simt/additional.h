// The gradient of additional keys and values is a sum over all queries: a block takes a chunk of these, and some tiles
// of the additional keys of all samples and heads.
#pragma once

#include "cuda/simt/row.h"

namespace natten_core::cuda::simt {

struct AdditionalUnit {
  int chunk, batch, kv_head;
  int first, count;  // additional keys of the tile; none: beyond the last
  int token_begin, token_end;

  DEV_FN AdditionalUnit(const Shape& shape, int chunks, int tile_tokens, const Lanes& lanes) {
    chunk = static_cast<int>(blockIdx.x) % chunks;
    const int tiles = (shape.additional + tile_tokens - 1) / tile_tokens;
    int unit = static_cast<int>(blockIdx.x) / chunks * (kThreads / lanes.count) + lanes.group();
    first = unit % tiles * tile_tokens;
    unit /= tiles;
    kv_head = unit % shape.heads_kv, batch = unit / shape.heads_kv;
    const int left = shape.additional - first;
    count = batch >= shape.batch ? 0 : left < tile_tokens ? left : tile_tokens;
    const int64_t tokens = static_cast<int64_t>(shape.extent[kZ]) * shape.extent[kY] * shape.extent[kX];
    token_begin = static_cast<int>(tokens * chunk / chunks),
    token_end = static_cast<int>(tokens * (chunk + 1) / chunks);
  }

  // The row of a token, of the first query head that reads the unit's head.
  template <class T>
  DEV_FN T* row(const View& view, const Shape& shape, int token) const {
    const int x = token % shape.extent[kX], zy = token / shape.extent[kX];
    const int y = zy % shape.extent[kY], z = zy / shape.extent[kY];
    return static_cast<T*>(view.data) + batch * view.batch + z * view.axis[kZ] + y * view.axis[kY] + x * view.axis[kX] +
           kv_head * (shape.heads / shape.heads_kv) * view.head;
  }

  // The row of the unit's first additional key.
  template <class T>
  DEV_FN T* key(const View& view) const {
    return static_cast<T*>(view.data) + batch * view.batch + first * view.axis[kX] + kv_head * view.head;
  }

  // Where its sums begin in [chunks, B, N, heads_kv, width].
  DEV_FN int64_t partial(const Shape& shape, int width) const {
    const int64_t sample = static_cast<int64_t>(chunk) * shape.batch + batch;
    return ((sample * shape.additional + first) * shape.heads_kv + kv_head) * width;
  }
};

}  // namespace natten_core::cuda::simt
