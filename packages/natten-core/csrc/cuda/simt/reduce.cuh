// Sums of the partial results of many blocks, in an order that is always the same.
#pragma once

#include "cuda/simt/row.h"

namespace natten_core::cuda::simt {

constexpr int kReduceColumns = 32;
constexpr int kReduceThreads = 256;

struct ReduceParams {
  const void* partial = nullptr;  // [slots, columns]
  int slots = 0;
  int64_t columns = 0;
  void* rpb = nullptr;  // [columns]; or, where it is null:
  Tensor key, value;    // [B, N, heads_kv, dim | dim_v], columns being [B, N, heads_kv, dim + dim_v]
  int dim = 0, dim_v = 0, heads = 0, additional = 0;
};

template <class T>
DEV_FN void store_reduced(const ReduceParams& params, int64_t column, typename SumOf<T>::Type sum) {
  if (params.rpb != nullptr) {
    dev::stg(static_cast<typename SumOf<T>::Type*>(params.rpb) + column, sum);
    return;
  }
  const int width = params.dim + params.dim_v, element = static_cast<int>(column % width);
  column /= width;
  const int64_t head = column % params.heads, n = column / params.heads % params.additional,
                batch = column / params.heads / params.additional;
  const bool is_key = element < params.dim;
  const Tensor& out = is_key ? params.key : params.value;
  const int64_t at = batch * out.batch + n * out.axis[kX] + head * out.head + (is_key ? element : element - params.dim);
  dev::stg(static_cast<T*>(out.data) + at, narrow<T>(sum));
}

template <class T>
DEV_KERNEL(kReduceThreads)
reduce_kernel(const ReduceParams params) {
  using A = typename SumOf<T>::Type;
  constexpr int kRows = kReduceThreads / kReduceColumns;
  DEV_SMEM(shared);
  const int thread = static_cast<int>(threadIdx.x), row = thread / kReduceColumns;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kReduceColumns + thread % kReduceColumns;
  A sum = 0;
  if (column < params.columns) {
    const A* partial = static_cast<const A*>(params.partial) + column;
    for (int slot = row; slot < params.slots; slot += kRows) sum += dev::ldg(partial + slot * params.columns);
  }
  const uint32_t mine = shared + static_cast<uint32_t>(thread) * static_cast<uint32_t>(sizeof(A));
  dev::sts(mine, sum);
  dev::syncthreads();
  if (row != 0 || column >= params.columns) return;
  for (int i = 1; i < kRows; ++i) sum += dev::lds<A>(mine + i * kReduceColumns * static_cast<uint32_t>(sizeof(A)));
  store_reduced<T>(params, column, sum);
}

}  // namespace natten_core::cuda::simt
