// Operands of mma.m16n8k16 (16-bit floats) and mma.m16n8k8 (tf32) for the band kernels.
//
// A product over head_dim may take its terms in any order that both operands share. Here lane q of a quad holds the
// 16-byte chunks q, q + 4, ... of a row (8 bytes for head_dim 16), so that rows are read with the widest loads, from
// global memory as from shared, and step s uses the lane's words 2s and 2s + 1: 16 terms of 16 bits, or 8 of 32.
//
// Where D tells how long a row is, it counts 16-bit elements: a row of tf32 is one of twice as many (kHalves).
#pragma once

#include "cuda/device/primitives.h"

namespace natten_core::cuda::band {

// What a row of D elements of type T counts as below, and what it takes in shared memory.
template <class T, int D>
constexpr int kRowBytes = D * int(sizeof(T));
template <class T, int D>
constexpr int kHalves = kRowBytes<T, D> / 2;

// The words of one row that one lane holds.
template <int D>
struct RowWords {
  uint32_t word[D / 8];
};

template <int D>
constexpr int kChunkWords = D == 16 ? 2 : 4;

template <int D>
using Chunk = dev::vec<uint32_t, kChunkWords<D>>;

// Shared rows of D 16-bit elements, columns side by side; 16-byte chunks permuted by column so that 8 columns at one
// chunk (ldmatrix) and 2 columns at four chunks (a quarter of a warp's 16-byte loads) touch every bank once.
template <int D>
DEV_FN uint32_t shared_offset(int column, int chunk) {
  int swizzle;
  if constexpr (D == 16) swizzle = (column >> 2) & 1;
  if constexpr (D == 32) swizzle = (column >> 1) & 3;
  if constexpr (D >= 64) swizzle = ((column & 1) << 2) | ((column >> 1) & 3);
  return uint32_t(column * (D * 2) + ((chunk ^ swizzle) << 4));
}

// The lane's part of the row at `row` [head_dim], a multiple of 16 bytes; zeros beyond, and where it is not
// `present`.
template <int D, class T>
DEV_FN RowWords<D> load_row(const T* row, int head_dim, int quad_lane, bool present = true) {
  constexpr int kWords = kChunkWords<D>, kElements = kWords * 4 / int(sizeof(T));
  RowWords<D> words;
#pragma unroll
  for (int c = 0; c < D / 8 / kWords; ++c) {
    const int first = (c * 4 + quad_lane) * kElements;
    Chunk<D> chunk = {};
    if (present && first < head_dim) chunk = dev::ldg(reinterpret_cast<const Chunk<D>*>(row + first));
#pragma unroll
    for (int i = 0; i < kWords; ++i) words.word[c * kWords + i] = chunk[i];
  }
  return words;
}

// Where in a shared row of columns a lane finds its part of column `column`; the same for column + 8 but D * 16 bytes
// on. The permutation leaves alone which 128 bytes a chunk is in.
template <int D>
struct RowOffsets {
  static constexpr int kChunks = D / 8 / kChunkWords<D>, kDistinct = kChunks < 2 ? kChunks : 2;
  uint32_t chunk[kDistinct];

  DEV_FN RowOffsets(int column, int quad_lane) {
#pragma unroll
    for (int c = 0; c < kDistinct; ++c)
      chunk[c] = D == 16 ? shared_offset<D>(column, quad_lane >> 1) + uint32_t(quad_lane & 1) * 8
                         : shared_offset<D>(column, c * 4 + quad_lane);
  }
  DEV_FN uint32_t at(int c) const { return chunk[c % kDistinct] + uint32_t(c / 2 * 128); }
};

// Likewise for ldmatrix of the d-th 16 elements of a column, from the offset of the first.
DEV_FN uint32_t matrix_offset(uint32_t first, int d) {
  return (first ^ uint32_t((d & 3) << 5)) + uint32_t((d >> 2) * 128);
}

// As `load_row`, from shared memory.
template <int D>
DEV_FN RowWords<D> load_shared_row(uint32_t row, const RowOffsets<D>& offsets) {
  constexpr int kWords = kChunkWords<D>;
  RowWords<D> words;
#pragma unroll
  for (int c = 0; c < D / 8 / kWords; ++c) {
    const auto chunk = dev::lds<Chunk<D>>(row + offsets.at(c));
#pragma unroll
    for (int i = 0; i < kWords; ++i) words.word[c * kWords + i] = chunk[i];
  }
  return words;
}

// A value that the compiler takes for another each time, and finds nothing from it before it is asked to.
DEV_FN int anew(int value) {
#if defined(__CUDACC__)
  asm volatile("" : "+r"(value));
#endif
  return value;
}

// A copy that the compiler takes for a new value: else it copies all operands of every mma out of the registers of the
// wide loads, which stand in another order.
DEV_FN uint32_t copy(uint32_t word) {
#if defined(__CUDACC__)
  return __byte_perm(word, 0, 0x3210);
#else
  return word;
#endif
}

DEV_FN uint32_t bits_of(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits;
}
DEV_FN float float_of(uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}

// A word as a factor. Products cut tf32 off after 10 bits of its fraction: multiplied by this before, it is as much too
// large as too small on average, by up to 0.64 of the last bit where rounding (dev::to_tf32) would leave 0.5. But that
// is one instruction, and the result may be in any register; rounding takes a comparison, an addition, and a copy where
// operands of a product must be neighbours. What is a tf32 already stays the same, as do infinity and NaN.
constexpr float kUncut = 1.f + 0.72f / 2048;

template <class T>
DEV_FN uint32_t factor_word(uint32_t word) {
  if constexpr (dev::is_16_bit<T>) return word;
  return bits_of(float_of(word) * kUncut);
}
template <class T, int D>
DEV_FN RowWords<D> factors(RowWords<D> row) {
#pragma unroll
  for (int i = 0; i < D / 8; ++i) row.word[i] = factor_word<T>(row.word[i]);
  return row;
}

// The queries of a warp as the A operands of a product over D: `top` are rows 0-7, `bottom` rows 8-15.
template <int D>
struct RowPair {
  uint32_t step[D / 16][4];

  DEV_FN RowPair(const RowWords<D>& top, const RowWords<D>& bottom) {
#pragma unroll
    for (int s = 0; s < D / 16; ++s) {
      step[s][0] = copy(top.word[2 * s]), step[s][1] = copy(bottom.word[2 * s]);
      step[s][2] = copy(top.word[2 * s + 1]), step[s][3] = copy(bottom.word[2 * s + 1]);
    }
  }
};

// sum += rows * key, over D.
template <class T, int D>
DEV_FN void multiply_rows(float (&sum)[4], const RowPair<D>& rows, const RowWords<D>& key) {
#pragma unroll
  for (int s = 0; s < D / 16; ++s)
    dev::mma<T>(sum, rows.step[s], factor_word<T>(key.word[2 * s]), factor_word<T>(key.word[2 * s + 1]));
}

// Accumulators of two n-tiles, or of one, as the A operand of a product over their 16 columns, for 16-bit floats; see
// products.h for tf32.
template <class T>
struct Factor {
  uint32_t word[4];

  DEV_FN Factor(const float (&first)[4], const float (&second)[4])
      : word{dev::pack<T>(first[0], first[1]), dev::pack<T>(first[2], first[3]), dev::pack<T>(second[0], second[1]),
             dev::pack<T>(second[2], second[3])} {}
  explicit DEV_FN Factor(const float (&only)[4])
      : word{dev::pack<T>(only[0], only[1]), dev::pack<T>(only[2], only[3]), 0, 0} {}
};

// sum += factor * rows, over the 16 rows of D elements whose columns begin at `at`; `offset` is that of the lane's
// address for ldmatrix.
template <class T, int D>
DEV_FN void add_product(float (&sum)[D / 8][4], const Factor<T>& factor, uint32_t at, uint32_t offset) {
#pragma unroll
  for (int d = 0; d < D / 16; ++d) {
    uint32_t rows[4];
    dev::ldmatrix_x4_trans(rows, at + matrix_offset(offset, d));
    dev::mma<T>(sum[2 * d], factor.word, rows[0], rows[1]);
    dev::mma<T>(sum[2 * d + 1], factor.word, rows[2], rows[3]);
  }
}

// Exchanges within quads so that the lane's words, those of one row in the order of accumulators (word n: elements
// 8n + 2q, 8n + 2q + 1), become the row's chunks as `load_row` has them.
template <int D>
DEV_FN void to_chunks(uint32_t (&word)[D / 8], int quad_lane) {
  if constexpr (D == 16) {
    // Lane q gets elements 4q .. 4q + 3: words (q & 1) * 2 and + 1 of the chunk q >> 1.
    const int quad = int(threadIdx.x & 28), from = (quad_lane & 1) * 2;
    const uint32_t a0 = dev::shfl(word[0], quad + from), b0 = dev::shfl(word[1], quad + from);
    const uint32_t a1 = dev::shfl(word[0], quad + from + 1);
    const uint32_t b1 = dev::shfl(word[1], quad + from + 1);
    word[0] = quad_lane < 2 ? a0 : b0, word[1] = quad_lane < 2 ? a1 : b1;
  } else {
#pragma unroll
    for (int c = 0; c < D / 32; ++c) {
      uint32_t* w = word + c * 4;
#pragma unroll
      for (int bit = 1; bit <= 2; bit <<= 1) {
        const bool high = quad_lane & bit;
#pragma unroll
        for (int n = 0; n < 4; ++n) {
          if (n & bit) continue;
          const uint32_t received = dev::shfl_xor(high ? w[n] : w[n | bit], bit);
          if (high)
            w[n] = received;
          else
            w[n | bit] = received;
        }
      }
    }
  }
}

template <int D, class T>
DEV_FN void store_row(T* row, const uint32_t (&word)[D / 8], int head_dim, int quad_lane) {
  constexpr int kWords = kChunkWords<D>, kElements = kWords * 4 / int(sizeof(T));
#pragma unroll
  for (int c = 0; c < D / 8 / kWords; ++c) {
    const int first = (c * 4 + quad_lane) * kElements;
    Chunk<D> chunk;
#pragma unroll
    for (int i = 0; i < kWords; ++i) chunk[i] = word[c * kWords + i];
    if (first < head_dim) dev::stg(reinterpret_cast<Chunk<D>*>(row + first), chunk);
  }
}

}  // namespace natten_core::cuda::band
