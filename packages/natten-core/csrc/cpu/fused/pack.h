// Copies between user memory (tokens of head_dim contiguous elements, any strides between tokens) and the kernels'
// own layouts: "rows" [column][padded head_dim] and "planes" [head_dim][columns], where a column is a lane.
#pragma once

#include <utility>

#include "pairs.h"

namespace natten_core::cpu::NATTEN_ISA {

// Lane e of shuffle_pair(a, b, ...) is lane kIndex[e] of a followed by b; indices are constants, so that each becomes
// one or two instructions.
template <class T, int Distance, bool High, int... Lane>
NATTEN_KERNEL Vec<T> shuffle_pair(Vec<T> a, Vec<T> b, std::integer_sequence<int, Lane...>) {
#define NATTEN_INDEX ((Lane & Distance) ? kLanes<T> + Lane - (High ? 0 : Distance) : Lane + (High ? Distance : 0))
#if defined(__clang__)
  return __builtin_shufflevector(a, b, NATTEN_INDEX...);
#else
  return __builtin_shuffle(a, b, IntVec<T>{NATTEN_INDEX...});
#endif
#undef NATTEN_INDEX
}

// One step of an in-register transpose: swaps the blocks of Distance lanes off the diagonal.
template <class T, int Distance>
NATTEN_KERNEL void transpose_step(Vec<T> (&v)[kLanes<T>]) {
  constexpr auto lanes = std::make_integer_sequence<int, kLanes<T>>{};
  NATTEN_UNROLL
  for (int i = 0; i < kLanes<T>; ++i) {
    if (i & Distance) continue;
    const Vec<T> a = v[i], b = v[i + Distance];
    v[i] = shuffle_pair<T, Distance, false>(a, b, lanes);
    v[i + Distance] = shuffle_pair<T, Distance, true>(a, b, lanes);
  }
  if constexpr (Distance > 1) transpose_step<T, Distance / 2>(v);
}

template <class T, class S>
NATTEN_KERNEL Vec<T> load_dims(const S* token, int dim, int head_dim) {
  return dim + kLanes<T> <= head_dim ? load<T>(token + dim) : load_part<T>(token + dim, head_dim - dim);
}

// planes[d][lane] = scale * tokens[lane][d]; pairs of dimensions have no scale.
template <class E, class S>
static void pack_planes(const S* const (&tokens)[kLanes<E>], int head_dim, Sum<E> scale, E* planes,
                        int64_t plane_stride) {
  const int count = plane_count<E>(head_dim);
  for (int plane = 0; plane < count; plane += kLanes<E>) {
    Vec<E> v[kLanes<E>];
    NATTEN_UNROLL
    for (int lane = 0; lane < kLanes<E>; ++lane) {
      if constexpr (kPaired<E>)
        v[lane] = load_pairs(tokens[lane], plane, head_dim);
      else
        v[lane] = load_dims<E>(tokens[lane], plane, head_dim) * scale;
    }
    transpose_step<E, kLanes<E> / 2>(v);
    if (plane + kLanes<E> <= count) {
      NATTEN_UNROLL
      for (int d = 0; d < kLanes<E>; ++d) store<E>(planes + (plane + d) * plane_stride, v[d]);
    } else {
      for (int d = 0; d < count - plane; ++d) store<E>(planes + (plane + d) * plane_stride, v[d]);
    }
  }
}

// row[d] = scale * token[d], zero up to the padded head_dim
template <class T, class S>
NATTEN_KERNEL void pack_row(const S* token, int head_dim, T scale, T* row) {
  for (int dim = 0; dim < head_dim; dim += kLanes<T>) store<T>(row + dim, load_dims<T>(token, dim, head_dim) * scale);
}

template <class T, class S>
NATTEN_KERNEL void store_dims(S* token, int dim, int head_dim, Vec<T> v) {
  if (dim + kLanes<T> <= head_dim)
    store<T>(token + dim, v);
  else if (dim < head_dim)
    store_part<T>(token + dim, v, head_dim - dim);
}

}  // namespace natten_core::cpu::NATTEN_ISA
