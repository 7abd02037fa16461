// What the launchers of this family share.
#pragma once

#include "cuda/device/start.h"
#include "cuda/simt/reduce.cuh"
#include "cuda/simt/tiling.h"

namespace natten_core::cuda::simt {

template <class T>
constexpr DType kDType = std::is_same<T, double>::value      ? DType::kFloat64
                         : std::is_same<T, float>::value     ? DType::kFloat32
                         : std::is_same<T, dev::half>::value ? DType::kFloat16
                                                             : DType::kBFloat16;
template <class T, int Tokens>
using Vectorized = Variant<T, 16 / sizeof(T), Tokens, false>;
template <class T>
using ByElement = Variant<T, 1, 1, true>;

inline dev::Grid grid(const Tiling& tiling) {
  return {static_cast<unsigned>(tiling.blocks), static_cast<unsigned>(tiling.head_blocks),
          static_cast<unsigned>(tiling.parts)};
}

inline dev::Grid additional_grid(const Tiling& tiling, const Scratch& scratch) {
  const int groups = kThreads / tiling.lanes, blocks = (scratch.additional_units + groups - 1) / groups;
  return {static_cast<unsigned>(blocks * scratch.additional_chunks), 1, static_cast<unsigned>(tiling.parts)};
}

template <class T>
void run_reduce(const ReduceParams& params, const Launch& launch) {
  const unsigned blocks = static_cast<unsigned>((params.columns + kReduceColumns - 1) / kReduceColumns);
  const int shared = kReduceThreads * static_cast<int>(sizeof(typename SumOf<T>::Type));
  if (blocks > 0) dev::start(reduce_kernel<T>, {blocks, 1, 1}, kReduceThreads, shared, launch, params);
}

template <class T>
void reduce_rpb(const Problem& problem, const void* partial, int slots, void* rpb, const Launch& launch) {
  ReduceParams params;
  params.partial = partial, params.slots = slots, params.rpb = rpb;
  params.columns = problem.heads;
  for (const int64_t kernel : problem.kernel) params.columns *= 2 * kernel - 1;
  run_reduce<T>(params, launch);
}

template <class T>
void reduce_additional(const Problem& problem, const void* partial, int chunks, const Tensor& key, const Tensor& value,
                       const Launch& launch) {
  ReduceParams params;
  params.partial = partial, params.slots = chunks, params.key = key, params.value = value;
  params.dim = static_cast<int>(problem.head_dim), params.dim_v = static_cast<int>(problem.head_dim_v);
  params.heads = static_cast<int>(problem.heads_kv), params.additional = static_cast<int>(problem.additional);
  params.columns = problem.batch * problem.additional * problem.heads_kv * (problem.head_dim + problem.head_dim_v);
  run_reduce<T>(params, launch);
}

}  // namespace natten_core::cuda::simt
