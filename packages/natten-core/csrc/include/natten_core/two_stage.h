// What the kernels of the two-stage form are given. Softmax and dropout lie between the stages, in the caller's hands.
//
// Weights are [B, Z, Y, X, heads, Kz*Ky*Kx + N], row-major over the window: slot i of an axis is the i-th key of the
// query's window there. Slots that a causal window lacks are its last ones on that axis: minus infinity as scores, no
// part of any sum as weights. Additional keys are the last N. All tensors have the problem's dtype.
#pragma once

#include "problem.h"

namespace natten_core {

struct QkArgs {
  Problem problem;            // scale is the factor on the dot products; head_dim_v is not read
  Tensor query;               // [B, Z, Y, X, heads, head_dim]
  Tensor key;                 // [B, Z, Y, X, heads_kv, head_dim]
  const void* rpb = nullptr;  // [heads, 2Kz-1, 2Ky-1, 2Kx-1], contiguous; may be null
  Tensor additional_key;      // [B, N, heads_kv, head_dim], N along axis[kX]; data is null when there are none
  Tensor scores;              // [B, Z, Y, X, heads, slots]
};

struct QkBackwardArgs {
  QkArgs forward;              // scores are not read
  Tensor grad_scores;          // [B, Z, Y, X, heads, slots]
  Tensor grad_query;           // [B, Z, Y, X, heads, head_dim]
  Tensor grad_key;             // [B, Z, Y, X, heads_kv, head_dim]
  void* grad_rpb = nullptr;    // [heads, 2Kz-1, 2Ky-1, 2Kx-1], contiguous; may be null
  Tensor grad_additional_key;  // [B, N, heads_kv, head_dim]
};

struct AvArgs {
  Problem problem;          // scale and head_dim are not read
  Tensor weights;           // [B, Z, Y, X, heads, slots]
  Tensor value;             // [B, Z, Y, X, heads_kv, head_dim_v]
  Tensor additional_value;  // [B, N, heads_kv, head_dim_v]
  Tensor output;            // [B, Z, Y, X, heads, head_dim_v]
};

struct AvBackwardArgs {
  AvArgs forward;                // output is not read
  Tensor grad_output;            // [B, Z, Y, X, heads, head_dim_v]
  Tensor grad_weights;           // [B, Z, Y, X, heads, slots]; zero in slots that a causal window lacks
  Tensor grad_value;             // [B, Z, Y, X, heads_kv, head_dim_v]
  Tensor grad_additional_value;  // [B, N, heads_kv, head_dim_v]
};

}  // namespace natten_core
