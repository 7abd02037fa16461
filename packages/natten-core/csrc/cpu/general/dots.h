// Dot products of one or two queries with all keys that they see. Lanes are keys: a few vectors of keys at a time,
// from the planes of one or several key rows, and one broadcast query element for all of them. A sum is of kDotDims
// products at most, and these are added up: a longer one would round more often than plain torch does.
#pragma once

#include "window.h"

namespace natten_core::cpu::NATTEN_ISA::general {

// Sums, queries and one vector of keys must fit the registers.
constexpr int dot_vectors(int queries) { return queries == 1 || kRegisters == 32 ? 8 : 6; }
constexpr int kDotDims = 128;

template <class T, int Queries, int Vectors>
static void dot_tile(const T* const (&keys)[8], int64_t stride, int dim, const T* const (&tokens)[2],
                     T* const (&out)[2]) {
  constexpr int n = kLanes<T>;
  const T* key[Vectors];
  for (int v = 0; v < Vectors; ++v) key[v] = keys[v];
  const T *first = tokens[0], *second = tokens[Queries - 1];
  for (int64_t d = 0, plane = 0; d < dim;) {
    Vec<T> sum[Queries][Vectors];
    NATTEN_UNROLL
    for (int v = 0; v < Vectors; ++v) {
      NATTEN_UNROLL
      for (int q = 0; q < Queries; ++q) sum[q][v] = Vec<T>{};
    }
    const bool begun = d > 0;
    for (const int64_t end = min_of(d + kDotDims, dim); d < end; ++d, plane += stride) {
      const Vec<T> a = broadcast<T>(first[d]), b = broadcast<T>(second[d]);
      NATTEN_UNROLL
      for (int v = 0; v < Vectors; ++v) {
        Vec<T> k = load<T>(key[v] + plane);
        if constexpr (Queries > 1) keep<T>(k);
        sum[0][v] += a * k;
        if constexpr (Queries > 1) sum[1][v] += b * k;
      }
    }
    NATTEN_UNROLL
    for (int q = 0; q < Queries; ++q) {
      NATTEN_UNROLL
      for (int v = 0; v < Vectors; ++v) {
        T* at = out[q] + v * n;
        store<T>(at, begun ? load<T>(at) + sum[q][v] : sum[q][v]);
      }
    }
  }
}

// `total` vectors of keys; next() tells where each lies.
template <class T, int Queries, class Next>
NATTEN_KERNEL void dot_vectors_of(int64_t total, int64_t stride, int dim, const T* const (&tokens)[2], T* (&out)[2],
                                  Next next) {
  constexpr int most = dot_vectors(Queries);
  for (int64_t parts = ceil_div(total, most); parts > 0; --parts) {  // near-equal parts: 7 are 4 + 3
    const int count = static_cast<int>(ceil_div(total, parts));
    const T* keys[8];
    for (int v = 0; v < count; ++v) keys[v] = next();
    const auto run = [&](auto vectors) __attribute__((always_inline)) {
      if constexpr (decltype(vectors)::value <= most)
        dot_tile<T, Queries, decltype(vectors)::value>(keys, stride, dim, tokens, out);
    };
    switch (count) {
      case 1: run(Constant<1>{}); break;
      case 2: run(Constant<2>{}); break;
      case 3: run(Constant<3>{}); break;
      case 4: run(Constant<4>{}); break;
      case 5: run(Constant<5>{}); break;
      case 6: run(Constant<6>{}); break;
      case 7: run(Constant<7>{}); break;
      case 8: run(Constant<8>{}); break;
    }
    total -= count;
    for (T*& scores : out) scores += count * kLanes<T>;
  }
}

template <class T, int Queries>
static void dots_from(const Operand<T>& keys, const WindowRows& rows, int vectors, int64_t begin, const T* first,
                      const T* second, T* first_out, T* second_out) {
  const T* const tokens[2] = {first, second};
  T* out[2] = {first_out, second_out};
  int row = 0, vector = 0;
  dot_vectors_of<T, Queries>(static_cast<int64_t>(rows.count) * vectors, keys.columns, keys.dim, tokens, out, [&] {
    const T* key = keys.planes + rows.slot[row] * keys.plane + begin + vector * kLanes<T>;
    if (++vector == vectors) vector = 0, ++row;
    return key;
  });
  const T* extra = keys.extra_planes;
  dot_vectors_of<T, Queries>(ceil_div(rows.additional, kLanes<T>), keys.extra_columns, keys.dim, tokens, out, [&] {
    const T* key = extra;
    extra += kLanes<T>;
    return key;
  });
}

// out[query] = [row][vectors of lanes], then [additional]; `step` from one query's tokens or results to the next's.
template <class T>
NATTEN_KERNEL void dots(const Operand<T>& keys, const WindowRows& rows, const Pair& pair, const T* tokens, T* out,
                        int64_t step) {
  if (pair.count == 2 && pair.same_begin()) {
    dots_from<T, 2>(keys, rows, pair.vectors, pair.query[0].begin, tokens, tokens + keys.padded, out, out + step);
    return;
  }
  for (int q = 0; q < pair.count; ++q) {
    const T* token = tokens + q * keys.padded;
    dots_from<T, 1>(keys, rows, pair.vectors, pair.query[q].begin, token, token, out + q * step, out + q * step);
  }
}

}  // namespace natten_core::cpu::NATTEN_ISA::general
