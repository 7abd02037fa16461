// What the key-major passes sum up for a tile of 16 keys: the gradients of keys, of values, or of both.
//
// For head_dim above 64 the registers of a thread do not hold both sums beside the operands, so that a pass runs once for
// each, and makes the weights twice.
#pragma once

#include "cuda/band/fragments.h"
#include "cuda/device/primitives.h"

namespace natten_core::cuda::band {

template <bool kKey_, bool kValue_>
struct Results {
  static constexpr bool kKey = kKey_, kValue = kValue_;
};

// Calls `use` with the results of each run of a pass.
template <int D, class Use>
void for_results(const Use& use) {
  if constexpr (D <= 64) {
    use(Results<true, true>{});
  } else {
    use(Results<true, false>{});
    use(Results<false, true>{});
  }
}

template <class R, int D>
struct KeySums {
  float key[R::kKey ? D / 8 : 1][4] = {}, value[R::kValue ? D / 8 : 1][4] = {};

  // Adds the products of two n-tiles of weights, and of score gradients, with rows of queries and of their outputs'
  // gradients, which lie in shared memory at `query` and `output`; `offset` is that of the lane's address for ldmatrix.
  template <class T>
  DEV_FN void add(const float (*weight)[4], const float (*grad)[4], uint32_t query, uint32_t output, uint32_t offset) {
    uint32_t w[4], g[4];
    if constexpr (R::kValue) as_factor<T>(w, weight);
    if constexpr (R::kKey) as_factor<T>(g, grad);
#pragma unroll
    for (int d = 0; d < D / 16; ++d) {
      if constexpr (R::kValue) add_to<T>(value + 2 * d, w, output + (offset ^ uint32_t(d << 5)));
      if constexpr (R::kKey) add_to<T>(key + 2 * d, g, query + (offset ^ uint32_t(d << 5)));
    }
  }

  // Writes the lane's part of the gradients of the key and value in half h of the tile.
  template <class T>
  DEV_FN void store(int h, float scale, bool present, T* key_to, T* value_to, int head_dim, int quad_lane) {
    if constexpr (R::kKey) store_half<T>(key, h, scale, present, key_to, head_dim, quad_lane);
    if constexpr (R::kValue) store_half<T>(value, h, 1.f, present, value_to, head_dim, quad_lane);
  }

 private:
  template <class T>
  static DEV_FN void as_factor(uint32_t (&factor)[4], const float (*tiles)[4]) {
    factor[0] = dev::pack<T>(tiles[0][0], tiles[0][1]), factor[1] = dev::pack<T>(tiles[0][2], tiles[0][3]);
    factor[2] = dev::pack<T>(tiles[1][0], tiles[1][1]), factor[3] = dev::pack<T>(tiles[1][2], tiles[1][3]);
  }
  template <class T>
  static DEV_FN void add_to(float (*sum)[4], const uint32_t (&factor)[4], uint32_t rows) {
    uint32_t other[4];
    dev::ldmatrix_x4_trans(other, rows);
    dev::mma<T>(sum[0], factor, other[0], other[1]);
    dev::mma<T>(sum[1], factor, other[2], other[3]);
  }
  template <class T>
  static DEV_FN void store_half(const float (*sum)[4], int h, float scale, bool present, T* to, int head_dim,
                                int quad_lane) {
    uint32_t words[D / 8];
#pragma unroll
    for (int n = 0; n < D / 8; ++n) words[n] = dev::pack<T>(sum[n][2 * h] * scale, sum[n][2 * h + 1] * scale);
    to_chunks<D>(words, quad_lane);
    if (present) store_row<D>(to, words, head_dim, quad_lane);
  }
};

}  // namespace natten_core::cuda::band
