// What the kernels are given: plain data, no torch, no Python.
#pragma once

#include <cstdint>

namespace natten_core {

enum Axis { kZ = 0, kY = 1, kX = 2, kRank = 3 };

enum class DType : int32_t { kFloat32, kFloat64, kFloat16, kBFloat16 };

// A tensor whose last axis (head_dim, where it has one) has stride 1. Strides count elements.
struct Tensor {
  void* data = nullptr;
  int64_t batch = 0;
  int64_t axis[kRank] = {0, 0, 0};
  int64_t head = 0;
};

// 1-D and 2-D problems have leading axes of extent 1, kernel size 1, stride 1 and dilation 1.
struct Problem {
  DType dtype = DType::kFloat32;
  int rank = 2;
  int64_t batch = 0;
  int64_t heads = 0;
  int64_t heads_kv = 0;    // divides heads: query head h reads key and value head h / (heads / heads_kv)
  int64_t head_dim = 0;
  int64_t head_dim_v = 0;  // of value, output and their gradients
  int64_t additional = 0;  // keys that every query sees beside its window
  int64_t extent[kRank] = {1, 1, 1};
  int64_t kernel[kRank] = {1, 1, 1};
  int64_t stride[kRank] = {1, 1, 1};
  int64_t dilation[kRank] = {1, 1, 1};
  bool causal[kRank] = {false, false, false};
  double scale = 1.0;
  int threads = 1;  // of the cpu kernels

  bool is_empty() const { return batch == 0 || heads == 0; }
  bool is_double() const { return dtype == DType::kFloat64; }
  int64_t element_bytes() const { return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2; }
};

// Bias and log-sum-exp, and their gradients, have the dtype of accumulation: float64 for float64 tensors, else float32.
struct ForwardArgs {
  Problem problem;
  Tensor query;                 // [B, Z, Y, X, heads, head_dim]
  Tensor key;                   // [B, Z, Y, X, heads_kv, head_dim]
  Tensor value;                 // [B, Z, Y, X, heads_kv, head_dim_v]
  const void* rpb = nullptr;    // [heads, 2Kz-1, 2Ky-1, 2Kx-1], contiguous; may be null
  Tensor additional_key;        // [B, N, heads_kv, head_dim], N along axis[kX]; data is null when there are none
  Tensor additional_value;      // [B, N, heads_kv, head_dim_v]
  Tensor output;                // [B, Z, Y, X, heads, head_dim_v]
  Tensor lse;                   // [B, Z, Y, X, heads]
};

struct BackwardArgs {
  ForwardArgs forward;          // output and lse are read by the cuda kernels, not by the cpu kernels
  Tensor grad_output;           // [B, Z, Y, X, heads, head_dim_v]
  Tensor grad_lse;              // [B, Z, Y, X, heads]; data may be null
  Tensor grad_query;            // [B, Z, Y, X, heads, head_dim]
  Tensor grad_key;              // [B, Z, Y, X, heads_kv, head_dim]
  Tensor grad_value;            // [B, Z, Y, X, heads_kv, head_dim_v]
  void* grad_rpb = nullptr;     // [heads, 2Kz-1, 2Ky-1, 2Kx-1], contiguous; may be null
  Tensor grad_additional_key;   // [B, N, heads_kv, head_dim]; data is null when there are none
  Tensor grad_additional_value; // [B, N, heads_kv, head_dim_v]
};

}  // namespace natten_core
