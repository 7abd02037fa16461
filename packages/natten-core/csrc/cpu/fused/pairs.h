// Products of bf16 by pairs, where the machine multiplies those: of neighbouring dimensions in the scores, of
// neighbouring key rows in the weighted sums, of neighbouring query rows in their transposes; of one row and nothing
// where it has no such neighbour. No pair holds a row that a window does not see, for whatever lies there, a NaN times
// nothing would be a NaN: where rows are odd in number, the last pair begins one row early and the row that is in two
// pairs has half its weight in each.
#pragma once

#include "storage.h"

namespace natten_core::cpu::NATTEN_ISA {

template <class E>
constexpr bool kPaired = std::is_same_v<E, Pair>;

// Elements of E, one a plane, that a token of so many dimensions fills.
template <class E>
constexpr int plane_count(int head_dim) {
  return kPaired<E> ? (head_dim + 1) / 2 : head_dim;
}

// Rows of pairs that stand for so many rows.
constexpr int pair_count(int rows) { return (rows + 1) / 2; }

// The second row of pair i.
constexpr int pair_end(int i, int rows) { return 2 * i + 1 < rows ? 2 * i + 1 : rows - 1; }

#if defined(__AVX512BF16__)

NATTEN_KERNEL __mmask32 first_halves(int count) {
  return count >= 32 ? 0xffffffffu : count <= 0 ? 0u : (1u << count) - 1;
}

// Pairs of dimensions from 2 * pair on; what lies past head_dim is zero.
NATTEN_KERNEL Vec<Pair> load_pairs(const BFloat16* token, int pair, int head_dim) {
  return (Vec<Pair>)_mm512_maskz_loadu_epi16(first_halves(head_dim - 2 * pair), token + 2 * pair);
}

typedef int16_t Halves __attribute__((vector_size(64)));

// row[d] = (low[d], high[d]), up to the padded head_dim. A null `high` is zero.
NATTEN_KERNEL void pack_pair_row(const BFloat16* low, const BFloat16* high, int head_dim, Pair* row) {
  const Halves index = {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                        8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  for (int d = 0; d < head_dim; d += 32) {
    const __m512i a = (__m512i)load_pairs(low, d / 2, head_dim);
    const __m512i b = high ? (__m512i)load_pairs(high, d / 2, head_dim) : __m512i{};
    store<Pair>(row + d, (Vec<Pair>)_mm512_permutex2var_epi16(a, (__m512i)index, b));
    if (d + 16 < head_dim) {
      store<Pair>(row + d + 16, (Vec<Pair>)_mm512_permutex2var_epi16(a, (__m512i)(index + 16), b));
    }
  }
}

// (low, high) of each lane, rounded to the nearest bf16.
NATTEN_KERNEL Vec<Pair> narrow_pair(Vec<float> low, Vec<float> high) {
  const Halves index = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                        8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512bh halves = _mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
  return (Vec<Pair>)_mm512_permutexvar_epi16((__m512i)index, (__m512i)halves);
}

// Pair i of rows of weights, [slot][lane]; weights(r) is row r. A single row is paired with nothing.
template <class Weights>
NATTEN_KERNEL void narrow_rows(int i, int rows, Weights weights, int slots, Pair* out) {
  constexpr int n = kLanes<float>;
  const bool odd = rows % 2 != 0, last = i + 1 == pair_count(rows), before_last = i + 2 == pair_count(rows);
  const float *high = weights(pair_end(i, rows)), *low = rows == 1 ? high : weights(pair_end(i, rows) - 1);
  const Vec<float> low_factor = broadcast<float>(rows > 1 && odd && last ? 0.5f : 1.0f);
  const Vec<float> high_factor = broadcast<float>(rows == 1 ? 0.0f : odd && before_last ? 0.5f : 1.0f);
  for (int at = 0; at < slots * n; at += n)
    store<Pair>(out + at, narrow_pair(load<float>(low + at) * low_factor, load<float>(high + at) * high_factor));
}

#endif

}  // namespace natten_core::cpu::NATTEN_ISA
