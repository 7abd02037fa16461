// Runs the general kernels' chunks, and adds up what chunks share: gradients of the bias and of the additional keys.
#include "dispatch.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "../parallel.h"

namespace natten_core::cpu {
namespace {

template <class Kernel, class Args>
void run_forward(const GeneralKernels& kernels, GeneralPass pass, Kernel kernel, const Problem& p, const Args& args) {
  const GeneralPlan plan = make_general_plan(p, false);
  const int64_t bytes = ceil_div(kernels.scratch_bytes(p, plan, pass), 64) * 64;
  const int64_t chunks = static_cast<int64_t>(plan.chunks.size());
  char* scratch = scratch_memory(bytes * min_of(p.threads, chunks));
  run(0, chunks, p.threads, scratch, bytes,
      [&](int64_t i, char* mine) { kernel(args, plan, plan.chunks[static_cast<size_t>(i)], mine); });
}

// The gradients that chunks share: what is null is no part of the pass.
struct Shared {
  void* bias;
  const Tensor* key;
  const Tensor* value;
};

// Adds the chunks' sums in order. A chunk has [bias of its heads], [N][head_dim] and [N][head_dim_v].
template <class T>
void reduce(const Problem& p, const GeneralPlan& plan, const Shared& shared, const double* sums, int64_t bias,
            int64_t step) {
  std::vector<std::vector<const double*>> parts(static_cast<size_t>(p.batch * p.heads_kv));
  for (const GeneralChunk& chunk : plan.chunks) {
    const GeneralItem& item = plan.items[static_cast<size_t>(chunk.item0)];
    parts[static_cast<size_t>(item.batch * p.heads_kv + item.head)].push_back(sums);
    sums += step;
  }
  std::vector<double> total(static_cast<size_t>(step)), bias_total(static_cast<size_t>(bias * p.heads_kv), 0.0);
  for (size_t map = 0; map < parts.size(); ++map) {
    const int64_t batch = static_cast<int64_t>(map) / p.heads_kv, head = static_cast<int64_t>(map) % p.heads_kv;
    std::fill(total.begin(), total.end(), 0.0);
    for (const double* part : parts[map])
      for (size_t j = 0; j < total.size(); ++j) total[j] += part[j];
    const double* from = total.data();
    for (int64_t j = 0; j < bias; ++j) bias_total[static_cast<size_t>(head * bias + j)] += *from++;
    for (const auto& [tensor, dim] : {std::pair{shared.key, p.head_dim}, std::pair{shared.value, p.head_dim_v}})
      for (int64_t i = 0; tensor && i < p.additional; ++i) {
        T* token = static_cast<T*>(tensor->data) + batch * tensor->batch + head * tensor->head + i * tensor->axis[kX];
        for (int64_t d = 0; d < dim; ++d) token[d] = static_cast<T>(*from++);
      }
  }
  for (int64_t j = 0; j < bias * p.heads_kv; ++j)
    static_cast<T*>(shared.bias)[j] = static_cast<T>(bias_total[static_cast<size_t>(j)]);
}

template <class Kernel, class Args>
void run_backward(const GeneralKernels& kernels, GeneralPass pass, Kernel kernel, const Problem& p, const Args& args,
                  const Shared& shared) {
  const GeneralPlan plan = make_general_plan(p, true);
  const int64_t bytes = ceil_div(kernels.scratch_bytes(p, plan, pass), 64) * 64;
  const int64_t chunks = static_cast<int64_t>(plan.chunks.size());
  char* scratch = scratch_memory(bytes * min_of(p.threads, chunks));
  int64_t bias = shared.bias ? p.heads / p.heads_kv : 0;
  for (int axis = 0; axis < kRank; ++axis) bias *= 2 * p.kernel[axis] - 1;
  const int64_t dims = (shared.key ? p.head_dim : 0) + (shared.value ? p.head_dim_v : 0);
  const int64_t step = bias + p.additional * dims, step_bytes = step * 8;
  const Memory sums = allocate(chunks * step_bytes);
  const auto work = [&](int64_t i, char* mine) {
    kernel(args, plan, plan.chunks[static_cast<size_t>(i)], mine, sums.get() + i * step_bytes);
  };
  run(0, plan.phase1, p.threads, scratch, bytes, work);
  run(plan.phase1, chunks, p.threads, scratch, bytes, work);
  if (step == 0) return;
  if (p.is_double())
    reduce<double>(p, plan, shared, reinterpret_cast<const double*>(sums.get()), bias, step);
  else
    reduce<float>(p, plan, shared, reinterpret_cast<const double*>(sums.get()), bias, step);
}

}  // namespace

void general_forward(const GeneralKernels& kernels, const ForwardArgs& args) {
  run_forward(kernels, GeneralPass::kForward, kernels.forward, args.problem, args);
}

void general_backward(const GeneralKernels& kernels, const BackwardArgs& args) {
  run_backward(kernels, GeneralPass::kBackward, kernels.backward, args.forward.problem, args,
               {args.grad_rpb, &args.grad_additional_key, &args.grad_additional_value});
}

void general_qk(const GeneralKernels& kernels, const QkArgs& args) {
  run_forward(kernels, GeneralPass::kQk, kernels.qk, args.problem, args);
}

void general_qk_backward(const GeneralKernels& kernels, const QkBackwardArgs& args) {
  run_backward(kernels, GeneralPass::kQkBackward, kernels.qk_backward, args.forward.problem, args,
               {args.grad_rpb, &args.grad_additional_key, nullptr});
}

void general_av(const GeneralKernels& kernels, const AvArgs& args) {
  run_forward(kernels, GeneralPass::kAv, kernels.av, args.problem, args);
}

void general_av_backward(const GeneralKernels& kernels, const AvBackwardArgs& args) {
  run_backward(kernels, GeneralPass::kAvBackward, kernels.av_backward, args.forward.problem, args,
               {nullptr, nullptr, &args.grad_additional_value});
}

}  // namespace natten_core::cpu
