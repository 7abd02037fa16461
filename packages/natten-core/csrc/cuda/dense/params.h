// What the dense kernels are given.
#pragma once

#include "cuda/dense/geometry.h"

namespace natten_core::cuda::dense {

// Tensors that a kernel keeps addresses of.
enum ForwardMember { kQuery, kKey, kValue, kLse, kOutput, kForwardMembers };
enum BackwardMember { kGradOutput = kLse + 1, kGradLse, kGradQuery, kGradKey, kGradValue, kBackwardMembers };

struct ForwardParams {
  Geometry geometry;
  View query, key, value, output;  // [B, Z, Y, X, heads, head_dim]
  View lse;                        // [B, Z, Y, X, heads]; data may be null
  const float* rpb;                // [heads, 2Kz-1, 2Ky-1, 2Kx-1], or null
  int32_t chunks_qk, chunks_v;     // 16-byte chunks of a row of query and key; of value and output
  float scale;
};

struct BackwardParams {
  ForwardParams forward;
  View grad_output, grad_query, grad_key, grad_value;  // [B, Z, Y, X, heads, head_dim]
  View grad_lse;                                       // [B, Z, Y, X, heads]; data may be null
  float* partial;                                      // [chunks, heads, 2Kz-1, 2Ky-1, 2Kx-1], or null
};

struct ReduceParams {
  const float* partial;  // [chunks, count]
  float* sum;            // [count]
  int32_t chunks, count;
};

}  // namespace natten_core::cuda::dense
