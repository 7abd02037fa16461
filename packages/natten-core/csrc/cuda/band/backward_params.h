// What the band kernels of the backward pass are given.
#pragma once

#include "cuda/band/params.h"
#include "cuda/device/types.h"

namespace natten_core::cuda::band {

// Statistics of a query: minus its log-sum-exp in base 2, and minus delta. The query-major pass writes them for the
// key-major one as [B, heads, residue maps, length_y, 2, length_x], by positions, with the lengths of the largest
// residue map.

template <class T>
struct QueryPassParams {
  Cut cut;
  View<const T> query, key, value, output, grad_output;  // [B, Y, X, heads, head_dim]
  View<const float> lse, grad_lse;                       // [B, Y, X, heads]; the data of grad_lse may be null
  View<T> grad_query;                                    // [B, Y, X, heads, head_dim]
  float* statistics;
  const float* rpb;   // [heads, 2Ky-1, 2Kx-1], or null
  float* grad_rpb;    // [chunks, heads, 2Ky-1, 2Kx-1], or null
  int64_t map_size;   // of statistics: length_y * 2 * length_x
  int length_x;       // of the largest residue map
  int heads, group;   // query heads, and those of a key head
  int slots;          // of the ring
  int head_dim;
  float scale;
};

template <class T>
struct KeyPassParams {
  Cut cut;
  View<const T> query, key, value, grad_output;
  View<T> grad_key, grad_value;  // [B, Y, X, heads / group, head_dim]
  const float* statistics;
  const float* rpb;
  dev::vec<float, 4>* sums;  // of the heads of a group so far; see backward_key.cuh
  int64_t map_size;
  int length_x, heads, group, slots, head_dim;
  int origin[2];  // column of the first key tile, in the longer and the shorter residue maps: 0 or less
  float scale;
};

struct ReduceParams {
  const float* parts;  // [chunks, entries]
  float* sum;          // [entries]
  int chunks, entries;
};

}  // namespace natten_core::cuda::band
