// Tokens without what is not finite, and that apart: tiles multiply also what lies outside a window, by nothing, and
// nothing times a NaN would be one.
#pragma once

#include "../fused/pack.h"
#include "sizes.h"

namespace natten_core::cpu::NATTEN_ISA {

// A row of pairs of dims, (low, high), zeros for what is not finite; says whether there was any. Null is zero.
NATTEN_KERNEL bool pack_finite_pairs(const BFloat16* low, const BFloat16* high, int head_dim, Pair* row) {
  const auto bits = [&](const BFloat16* token, int d) __attribute__((always_inline)) {
    return token ? (Wide)load_dims<float>(token, d, head_dim) : Wide{};
  };
  bool all = true;
  const auto finite = [&](Wide v) __attribute__((always_inline)) {
    const __mmask16 lanes = _mm512_cmpneq_epi32_mask((__m512i)(v & 0x7f800000), (__m512i)(Wide{} + 0x7f800000));
    all &= lanes == 0xffff;
    return (Wide)_mm512_maskz_mov_epi32(lanes, (__m512i)v);
  };
  for (int d = 0; d < head_dim; d += kTileLanes)
    store<Pair>(row + d, (Vec<Pair>)(finite(bits(low, d)) >> 16 | finite(bits(high, d))));
  return !all;
}

// to[d] += weight * token[d] where that is not finite
inline void add_not_finite(const BFloat16* token, int head_dim, float weight, float* to) {
  for (int d = 0; d < head_dim; ++d) {
    if ((token[d].bits & 0x7f80) != 0x7f80) continue;
    const uint32_t bits = static_cast<uint32_t>(token[d].bits) << 16;
    float x;
    memcpy(&x, &bits, sizeof(x));
    to[d] += weight * x;
  }
}

}  // namespace natten_core::cpu::NATTEN_ISA
