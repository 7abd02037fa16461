// Starts the kernels of the two-stage form for one dtype.
#pragma once

#include "cuda/simt/start.cuh"
#include "cuda/simt/two_stage.cuh"
#include "cuda/simt/two_stage_pair.h"

namespace natten_core::cuda::simt {

inline PairParams pair_params(const Pair& pair) {
  PairParams params;
  params.shape = shape_of(pair.problem);
  params.query = view_of(pair.query, pair.problem), params.key = view_of(pair.key, pair.problem);
  params.additional_key = view_of(pair.additional_key, pair.problem);
  params.weights = view_of(pair.weights, pair.problem);
  return params;
}

template <class V>
void run_dots_variant(const Pair& pair, const void* rpb, float fill, const Launch& launch) {
  PairParams params = pair_params(pair);
  params.rpb = rpb, params.fill = fill;
  params.tiling = make_tiling(pair.problem, pair.problem.heads, V::kTokens);
  dev::Grid blocks = grid(params.tiling);
  blocks.z = 1;
  if (blocks.x > 0) dev::start(dots_kernel<V>, blocks, kThreads, 0, launch, params);
}

template <class V>
void run_combine_variant(const Pair& pair, void* grad_rpb, void* workspace, const Launch& launch) {
  const Scratch scratch = pair_scratch(pair, grad_rpb != nullptr);
  PairParams params = pair_params(pair);
  params.tiling = make_tiling(pair.problem, pair.problem.heads, V::kTokens);
  dev::Grid blocks = grid(params.tiling);
  if (scratch.rpb_chunks > 0) {
    params.rpb_partial = static_cast<char*>(workspace) + scratch.rpb;
    params.rpb_in_shared = scratch.rpb_shared > 0;
    blocks.x = static_cast<unsigned>(scratch.rpb_chunks);
  }
  if (blocks.x > 0) dev::start(combine_kernel<V>, blocks, kThreads, scratch.rpb_shared, launch, params);
  if (grad_rpb != nullptr)
    reduce_rpb<typename V::Element>(pair.problem, params.rpb_partial, scratch.rpb_slots, grad_rpb, launch);
}

template <class V>
void run_spread_variant(const Pair& pair, void* workspace, const Launch& launch) {
  PairParams params = pair_params(pair);
  params.tiling = make_tiling(pair.problem, pair.problem.heads_kv, V::kTokens);
  if (params.tiling.blocks == 0) return;
  dev::start(spread_kernel<V>, grid(params.tiling), kThreads, 0, launch, params);
  const Scratch scratch = pair_scratch(pair, false);
  if (scratch.additional_chunks == 0) return;
  params.additional_partial = static_cast<char*>(workspace) + scratch.additional;
  params.additional_chunks = scratch.additional_chunks;
  dev::start(spread_additional_kernel<V>, additional_grid(params.tiling, scratch), kThreads, 0, launch, params);
  reduce_additional<typename V::Element>(pair.problem, params.additional_partial, scratch.additional_chunks,
                                         pair.additional_key, {}, launch);
}

template <class T>
void run_dots(const Pair& pair, const void* rpb, float fill, const Launch& launch) {
  if (is_vectorized(pair))
    run_dots_variant<Vectorized<T, forward_tokens(kDType<T>)>>(pair, rpb, fill, launch);
  else
    run_dots_variant<ByElement<T>>(pair, rpb, fill, launch);
}

template <class T>
void run_combine(const Pair& pair, void* grad_rpb, void* workspace, const Launch& launch) {
  if (is_vectorized(pair))
    run_combine_variant<Vectorized<T, forward_tokens(kDType<T>)>>(pair, grad_rpb, workspace, launch);
  else
    run_combine_variant<ByElement<T>>(pair, grad_rpb, workspace, launch);
}

template <class T>
void run_spread(const Pair& pair, void* workspace, const Launch& launch) {
  if (is_vectorized(pair))
    run_spread_variant<Vectorized<T, forward_tokens(kDType<T>)>>(pair, workspace, launch);
  else
    run_spread_variant<ByElement<T>>(pair, workspace, launch);
}

}  // namespace natten_core::cuda::simt
