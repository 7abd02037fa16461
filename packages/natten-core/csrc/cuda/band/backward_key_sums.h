// What the key-major passes sum up for a tile of 16 keys: the gradients of keys, of values, or of both.
//
// For rows above 128 bytes the registers of a thread do not hold both sums beside the operands, so that a pass runs
// once for each, and makes the weights twice.
#pragma once

#include "cuda/band/products.h"
#include "cuda/device/primitives.h"

namespace natten_core::cuda::band {

template <bool kKey_, bool kValue_>
struct Results {
  static constexpr bool kKey = kKey_, kValue = kValue_;
};

// Calls `use` with the results of each run of a pass, for rows of kHalves 16-bit elements.
template <int kHalves, class Use>
void for_results(const Use& use) {
  if constexpr (kHalves <= 64) {
    use(Results<true, true>{});
  } else {
    use(Results<true, false>{});
    use(Results<false, true>{});
  }
}

template <class R, int D>
struct KeySums {
  float key[R::kKey ? D / 8 : 1][4] = {}, value[R::kValue ? D / 8 : 1][4] = {};

  // Writes the lane's part of the gradients of the key and value in half h of the tile.
  template <class T>
  DEV_FN void store(int h, float scale, bool present, T* key_to, T* value_to, int head_dim, int quad_lane) {
    if constexpr (R::kKey) store_half<T>(key, h, scale, present, key_to, head_dim, quad_lane);
    if constexpr (R::kValue) store_half<T>(value, h, 1.f, present, value_to, head_dim, quad_lane);
  }

 private:
  template <class T>
  static DEV_FN void store_half(const float (*sum)[4], int h, float scale, bool present, T* to, int head_dim,
                                int quad_lane) {
    uint32_t words[kHalves<T, D> / 8];
    to_row<T, D>(words, sum, h, scale, quad_lane);
    if (present) store_row<kHalves<T, D>>(to, words, head_dim, quad_lane);
  }
};

}  // namespace natten_core::cuda::band
