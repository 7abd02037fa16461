#include "cuda/simt/two_stage.h"

#include <cmath>

#include "cuda/simt/element.h"
#include "cuda/simt/two_stage_pair.h"

namespace natten_core::cuda::simt {
namespace {

Pair pair_of(Problem problem, int64_t dim, double scale, const Tensor& query, const Tensor& key,
             const Tensor& additional_key, const Tensor& weights) {
  problem.head_dim = dim, problem.head_dim_v = 0, problem.scale = scale;
  if (additional_key.data == nullptr) problem.additional = 0;
  return {problem, query, key, additional_key, weights};
}

Pair qk_pair(const Problem& problem, const Tensor& query, const Tensor& key, const Tensor& additional_key,
             const Tensor& scores) {
  return pair_of(problem, problem.head_dim, problem.scale, query, key, additional_key, scores);
}
Pair av_pair(const Problem& problem, const Tensor& output, const Tensor& value, const Tensor& additional_value,
             const Tensor& weights) {
  return pair_of(problem, problem.head_dim_v, 1, output, value, additional_value, weights);
}

// The pairs of which a backward sums one side.
Pair grad_query_pair(const QkBackwardArgs& args) {
  const QkArgs& forward = args.forward;
  return qk_pair(forward.problem, args.grad_query, forward.key, forward.additional_key, args.grad_scores);
}
Pair grad_key_pair(const QkBackwardArgs& args) {
  const QkArgs& forward = args.forward;
  return qk_pair(forward.problem, forward.query, args.grad_key, args.grad_additional_key, args.grad_scores);
}
Pair grad_value_pair(const AvBackwardArgs& args) {
  const AvArgs& forward = args.forward;
  return av_pair(forward.problem, args.grad_output, args.grad_value, args.grad_additional_value, forward.weights);
}

size_t rpb_workspace(const QkBackwardArgs& args) {
  return pair_scratch(grad_query_pair(args), args.grad_rpb != nullptr).additional;
}

}  // namespace

bool is_vectorized(const Pair& pair) {
  return is_vectorized(pair.problem, pair.problem.head_dim) && is_aligned(pair.query, pair.problem) &&
         is_aligned(pair.key, pair.problem) && is_aligned(pair.additional_key, pair.problem, false);
}

Scratch pair_scratch(const Pair& pair, bool grad_rpb) {
  const int tokens = is_vectorized(pair) ? forward_tokens(pair.problem.dtype) : 1;
  return lay_out_scratch(pair.problem, 0, grad_rpb, tokens, tokens);
}

void qk_forward(const QkArgs& args, const Launch& launch) {
  const Pair pair = qk_pair(args.problem, args.query, args.key, args.additional_key, args.scores);
  with_element(args.problem.dtype,
               [&](auto element) { run_dots<decltype(element)>(pair, args.rpb, -INFINITY, launch); });
}

size_t qk_backward_workspace(const QkBackwardArgs& args) {
  return rpb_workspace(args) + pair_scratch(grad_key_pair(args), false).total;
}

void qk_backward(const QkBackwardArgs& args, void* workspace, const Launch& launch) {
  void* const rest = static_cast<char*>(workspace) + rpb_workspace(args);
  with_element(args.forward.problem.dtype, [&](auto element) {
    using T = decltype(element);
    run_combine<T>(grad_query_pair(args), args.grad_rpb, workspace, launch);
    run_spread<T>(grad_key_pair(args), rest, launch);
  });
}

void av_forward(const AvArgs& args, const Launch& launch) {
  const Pair pair = av_pair(args.problem, args.output, args.value, args.additional_value, args.weights);
  with_element(args.problem.dtype,
               [&](auto element) { run_combine<decltype(element)>(pair, nullptr, nullptr, launch); });
}

size_t av_backward_workspace(const AvBackwardArgs& args) { return pair_scratch(grad_value_pair(args), false).total; }

void av_backward(const AvBackwardArgs& args, void* workspace, const Launch& launch) {
  const AvArgs& forward = args.forward;
  const Pair pair =
      av_pair(forward.problem, args.grad_output, forward.value, forward.additional_value, args.grad_weights);
  with_element(forward.problem.dtype, [&](auto element) {
    using T = decltype(element);
    run_dots<T>(pair, nullptr, 0.0f, launch);
    run_spread<T>(grad_value_pair(args), workspace, launch);
  });
}

}  // namespace natten_core::cuda::simt
