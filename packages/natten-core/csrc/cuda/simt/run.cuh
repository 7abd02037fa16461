// Starts the kernels of one dtype.
#pragma once

#include "cuda/simt/backward_key.cuh"
#include "cuda/simt/backward_query.cuh"
#include "cuda/simt/forward.cuh"
#include "cuda/simt/kernels.h"
#include "cuda/simt/start.cuh"

namespace natten_core::cuda::simt {

template <class V>
void run_forward_variant(const ForwardArgs& args, const Launch& launch) {
  ForwardParams params = params_of(args);
  params.tiling = make_tiling(args.problem, args.problem.heads, V::kTokens);
  dev::start(forward_kernel<V>, grid(params.tiling), kThreads, 0, launch, params);
}

template <class T>
void run_forward(const ForwardArgs& args, const Launch& launch) {
  if (args.problem.batch == 0) return;
  if (is_vectorized(args))
    run_forward_variant<Vectorized<T, forward_tokens(kDType<T>)>>(args, launch);
  else
    run_forward_variant<ByElement<T>>(args, launch);
}

template <class V>
void run_query_pass(const BackwardArgs& args, BackwardParams params, const Scratch& scratch, const Launch& launch) {
  const Problem& problem = args.forward.problem;
  params.tiling = make_tiling(problem, problem.heads, V::kTokens);
  dev::Grid blocks = grid(params.tiling);
  if (scratch.rpb_chunks > 0) blocks.x = static_cast<unsigned>(scratch.rpb_chunks);
  if (blocks.x > 0) dev::start(backward_query_kernel<V>, blocks, kThreads, scratch.rpb_shared, launch, params);
  if (args.grad_rpb != nullptr)
    reduce_rpb<typename V::Element>(problem, params.rpb_partial, scratch.rpb_slots, args.grad_rpb, launch);
}

template <class V>
void run_key_pass(const BackwardArgs& args, BackwardParams params, const Scratch& scratch, const Launch& launch) {
  const Problem& problem = args.forward.problem;
  params.tiling = make_tiling(problem, problem.heads_kv, V::kTokens);
  if (params.tiling.blocks == 0) return;
  dev::start(backward_key_kernel<V>, grid(params.tiling), kThreads, 0, launch, params);
  if (scratch.additional_chunks == 0) return;
  dev::start(backward_additional_kernel<V>, additional_grid(params.tiling, scratch), kThreads, 0, launch, params);
  reduce_additional<typename V::Element>(problem, params.additional_partial, scratch.additional_chunks,
                                         args.grad_additional_key, args.grad_additional_value, launch);
}

template <class T>
void run_backward(const BackwardArgs& args, void* workspace, const Launch& launch) {
  const Problem& problem = args.forward.problem;
  const bool vectorized = is_vectorized(args);
  const Scratch scratch = lay_out_scratch(args, vectorized);
  Tensor sums;  // contiguous
  sums.data = workspace, sums.head = 1;
  sums.axis[kX] = problem.heads;
  sums.axis[kY] = problem.extent[kX] * sums.axis[kX];
  sums.axis[kZ] = problem.extent[kY] * sums.axis[kY];
  sums.batch = problem.extent[kZ] * sums.axis[kZ];
  const auto view = [&](const Tensor& tensor) { return view_of(tensor, problem); };
  BackwardParams params;
  static_cast<ForwardParams&>(params) = params_of(args.forward);
  params.grad_output = view(args.grad_output), params.grad_lse = view(args.grad_lse);
  params.grad_query = view(args.grad_query), params.grad_key = view(args.grad_key);
  params.grad_value = view(args.grad_value), params.sums = view(sums);
  if (scratch.rpb_chunks > 0) params.rpb_partial = static_cast<char*>(workspace) + scratch.rpb;
  params.rpb_in_shared = scratch.rpb_shared > 0;
  params.additional_partial = static_cast<char*>(workspace) + scratch.additional;
  params.additional_chunks = scratch.additional_chunks;
  if (vectorized) {
    run_query_pass<Vectorized<T, query_tokens(kDType<T>)>>(args, params, scratch, launch);
    run_key_pass<Vectorized<T, key_tokens(kDType<T>)>>(args, params, scratch, launch);
  } else {
    run_query_pass<ByElement<T>>(args, params, scratch, launch);
    run_key_pass<ByElement<T>>(args, params, scratch, launch);
  }
}

}  // namespace natten_core::cuda::simt
