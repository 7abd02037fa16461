// What the kernels are given: plain data, no torch, no Python.
#pragma once

#include <cstdint>

namespace natten_core {

enum Axis { kZ = 0, kY = 1, kX = 2, kRank = 3 };

// A tensor whose last axis (head_dim, where it has one) has stride 1. Strides count elements.
struct Tensor {
  void* data = nullptr;
  int64_t batch = 0;
  int64_t axis[kRank] = {0, 0, 0};
  int64_t head = 0;
};

// 1-D and 2-D problems have leading axes of extent 1, kernel size 1 and dilation 1.
struct Problem {
  bool is_double = false;
  int64_t batch = 0;
  int64_t heads = 0;
  int64_t head_dim = 0;
  int64_t extent[kRank] = {1, 1, 1};
  int64_t kernel[kRank] = {1, 1, 1};
  int64_t dilation[kRank] = {1, 1, 1};
  double scale = 1.0;
  int threads = 1;
};

struct ForwardArgs {
  Problem problem;
  Tensor query;                // [B, Z, Y, X, heads, head_dim]
  Tensor key;                  // [B, Z, Y, X, heads, head_dim]
  Tensor value;                // [B, Z, Y, X, heads, head_dim]
  const void* rpb = nullptr;   // [heads, 2Kz-1, 2Ky-1, 2Kx-1], contiguous; may be null
  Tensor output;               // [B, Z, Y, X, heads, head_dim]
  Tensor lse;                  // [B, Z, Y, X, heads]
};

struct BackwardArgs {
  ForwardArgs forward;         // output and lse are not read
  Tensor grad_output;          // [B, Z, Y, X, heads, head_dim]
  Tensor grad_lse;             // [B, Z, Y, X, heads]; data may be null
  Tensor grad_query;           // [B, Z, Y, X, heads, head_dim]
  Tensor grad_key;             // [B, Z, Y, X, heads, head_dim]
  Tensor grad_value;           // [B, Z, Y, X, heads, head_dim]
  void* grad_rpb = nullptr;    // [heads, 2Kz-1, 2Ky-1, 2Kx-1], contiguous; may be null
};

}  // namespace natten_core
