// What the box kernels of the backward pass are given.
#pragma once

#include "cuda/box/params.h"

namespace natten_core::cuda::box {

// Statistics of a query: minus its log-sum-exp in base 2, and minus delta. The query-major pass writes them for the
// key-major one as [B, heads, residue maps, length_z, length_y, 2, length_x], by positions, with the lengths of the
// largest residue map.
struct Statistics {
  float* data;
  int64_t map;  // elements of a residue map
  int length_y, length_x;

  // Where those of a row begin; delta is length_x further.
  DEV_HD int64_t row(const Cut& cut, const Part& part, int64_t sample, int heads, int head, int z, int y) const {
    const int residues = cut.dilation[kZ] * cut.dilation[kY] * cut.dilation[kX];
    const int residue = (part.residue[kZ] * cut.dilation[kY] + part.residue[kY]) * cut.dilation[kX] + part.residue[kX];
    return ((sample * heads + head) * residues + residue) * map + (int64_t{z} * length_y + y) * 2 * length_x;
  }
};

template <class T>
struct QueryPassParams {
  Cut cut;
  View<const T> query, key, value, output, grad_output;
  View<const float> lse, grad_lse;  // the data of grad_lse may be null
  View<T> grad_query;
  Statistics statistics;
  const float* rpb;  // [heads, 2Kz-1, 2Ky-1, 2Kx-1], or null
  float* grad_rpb;   // [chunks, heads, 2Kz-1, 2Ky-1, 2Kx-1], or null
  int heads, group, head_dim;  // group: query heads of a key head
  float scale;
};

template <class T>
struct KeyPassParams {
  Cut cut;
  View<const T> query, key, value, grad_output;
  View<T> grad_key, grad_value;
  Statistics statistics;
  const float* rpb;
  int origin[2];  // column of the first tile, in the longer and the shorter residue maps: 0 or less
  int heads, group, head_dim;
  float scale;
};

}  // namespace natten_core::cuda::box
