// Chooses the instruction set and the kernel family, cuts the problem, and runs the chunks.
#include <algorithm>
#include <stdexcept>

#include "general/dispatch.h"
#include "kernels.h"
#include "parallel.h"

namespace natten_core::cpu {
namespace {

struct Candidate {
  const Kernels* kernels;
  bool present;
};

std::vector<Candidate> candidates() {
  std::vector<Candidate> all = {{&kGeneric, true}};
#if defined(NATTEN_BUILT_AVX2)
  all.push_back(
      {&kAvx2, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")});
#endif
#if defined(NATTEN_BUILT_AVX512)
  all.push_back({&kAvx512, __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")});
#endif
  return all;
}

std::vector<std::string> names(bool only_present) {
  std::vector<std::string> result;
  for (const Candidate& c : candidates())
    if (c.present || !only_present) result.push_back(c.kernels->name);
  return result;
}

const Kernels* best() {
  const Kernels* kernels = nullptr;
  for (const Candidate& c : candidates())
    if (c.present) kernels = c.kernels;
  return kernels;
}

const Kernels*& active() {
  static const Kernels* kernels = best();
  return kernels;
}

const TypedKernels& typed(const Problem& problem) {
  switch (problem.dtype) {
    case DType::kFloat64: return active()->f64;
    case DType::kFloat16: return active()->f16;
    case DType::kBFloat16: return active()->bf16;
    case DType::kFloat32: break;
  }
  return active()->f32;
}

// Halves are given to these kernels as fp32.
const GeneralKernels& general(const Problem& problem) {
  if (problem.element_bytes() < 4) throw std::invalid_argument("the general kernels need float32 or float64");
  return problem.is_double() ? active()->general64 : active()->general32;
}

// Sums the chunks' bias gradients, in order, into [heads, bias rows, bias columns]. `step`: from chunk to chunk.
template <class T>
void reduce_grad_bias(const Plan& plan, const T* sums, int64_t step, int64_t size, int64_t heads, T* grad) {
  std::vector<double> total(static_cast<size_t>(size * heads), 0.0);
  for (const Chunk& chunk : plan.chunks) {
    double* head = total.data() + chunk.head0 * size;
    for (int64_t i = 0; i < chunk.heads * size; ++i) head[i] += sums[i];
    sums += step;
  }
  std::transform(total.begin(), total.end(), grad, [](double x) { return static_cast<T>(x); });
}

}  // namespace

std::vector<std::string> isa_built() { return names(false); }
std::vector<std::string> isa_present() { return names(true); }
std::string isa_active() { return active()->name; }

void set_isa(const std::string& name) {
  for (const Candidate& c : candidates()) {
    if (name != c.kernels->name) continue;
    if (!c.present) throw std::runtime_error("this machine has no " + name);
    active() = c.kernels;
    return;
  }
  throw std::runtime_error("this build has no kernels for '" + name + "'");
}

bool is_fused(const Problem& p) {
  for (int axis = 0; axis < kRank; ++axis)
    if (p.stride[axis] != 1 || p.causal[axis]) return false;
  return p.heads_kv == p.heads && p.head_dim_v == p.head_dim && p.additional == 0;
}

void forward(const ForwardArgs& args) {
  if (!is_fused(args.problem)) return general_forward(general(args.problem), args);
  const TypedKernels& kernels = typed(args.problem);
  const Plan plan = make_plan(args.problem, kernels.lanes, active()->rows_per_block, false);
  const int64_t bytes = ceil_div(kernels.forward_scratch_bytes(args.problem, plan), 64) * 64;
  const int64_t chunks = static_cast<int64_t>(plan.chunks.size());
  char* scratch = scratch_memory(bytes * min_of(args.problem.threads, chunks));
  run(0, chunks, args.problem.threads, scratch, bytes,
      [&](int64_t i, char* mine) { kernels.forward(args, plan, plan.chunks[static_cast<size_t>(i)], mine); });
}

void backward(const BackwardArgs& args) {
  const Problem& problem = args.forward.problem;
  if (!is_fused(problem)) return general_backward(general(problem), args);
  const TypedKernels& kernels = typed(problem);
  const Plan plan = make_plan(problem, kernels.lanes, active()->rows_per_block, true);
  const int64_t bytes = ceil_div(kernels.backward_scratch_bytes(problem, plan), 64) * 64;
  const int64_t chunks = static_cast<int64_t>(plan.chunks.size());
  char* scratch = scratch_memory(bytes * min_of(problem.threads, chunks));
  const int64_t bias = (2 * problem.kernel[kZ] - 1) * (2 * problem.kernel[kY] - 1) * (2 * problem.kernel[kX] - 1);
  const int64_t bias_step = plan.heads_per_chunk * bias, bias_bytes = bias_step * (problem.is_double() ? 8 : 4);
  const Memory sums = allocate(args.grad_rpb ? bias_bytes * chunks : 0);
  const auto work = [&](int64_t i, char* mine) {
    kernels.backward(args, plan, plan.chunks[static_cast<size_t>(i)], mine,
                     args.grad_rpb ? sums.get() + i * bias_bytes : nullptr);
  };
  run(0, plan.phase1, problem.threads, scratch, bytes, work);
  run(plan.phase1, chunks, problem.threads, scratch, bytes, work);
  if (!args.grad_rpb) return;
  if (problem.is_double())
    reduce_grad_bias(plan, reinterpret_cast<const double*>(sums.get()), bias_step, bias, problem.heads,
                     static_cast<double*>(args.grad_rpb));
  else
    reduce_grad_bias(plan, reinterpret_cast<const float*>(sums.get()), bias_step, bias, problem.heads,
                     static_cast<float*>(args.grad_rpb));
}

void qk(const QkArgs& args) { general_qk(general(args.problem), args); }
void qk_backward(const QkBackwardArgs& args) { general_qk_backward(general(args.forward.problem), args); }
void av(const AvArgs& args) { general_av(general(args.problem), args); }
void av_backward(const AvBackwardArgs& args) { general_av_backward(general(args.forward.problem), args); }

}  // namespace natten_core::cpu
