// Chooses the instruction set, cuts the problem, and runs the chunks on OpenMP threads.
#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>
#include <stdexcept>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "kernels.h"
#include "natten_core/neighborhood.h"

namespace natten_core::cpu {
namespace {

struct Candidate {
  const Kernels* kernels;
  bool present;
};

std::vector<Candidate> candidates() {
  std::vector<Candidate> all = {{&kGeneric, true}};
#if defined(NATTEN_BUILT_AVX2)
  all.push_back({&kAvx2, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")});
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

struct Free {
  void operator()(void* p) const { std::free(p); }
};
using Memory = std::unique_ptr<char, Free>;

// At least `bytes`, on a 64-byte boundary.
Memory allocate(int64_t bytes) {
  void* p = std::aligned_alloc(64, static_cast<size_t>(ceil_div(max_of(bytes, 1), 64) * 64));
  if (p == nullptr) throw std::bad_alloc();
  return Memory(static_cast<char*>(p));
}

// Scratch that the calling thread keeps from call to call, unless it is large: small problems should not pay for fresh
// pages each time.
char* scratch_memory(int64_t bytes) {
  constexpr int64_t kKept = 16 << 20;
  thread_local Memory memory;
  thread_local int64_t size = 0;
  if (bytes > size || size > kKept) {
    memory.reset();
    size = 0;
    memory = allocate(bytes);
    size = bytes;
  }
  return memory.get();
}

// Runs body(chunk, scratch of its thread) for chunks [begin, end).
template <class Body>
void run(int64_t begin, int64_t end, int threads, char* scratch, int64_t scratch_bytes, Body body) {
#if defined(_OPENMP)
  const int team = static_cast<int>(max_of(1, min_of(threads, end - begin)));
#pragma omp parallel num_threads(team) if (team > 1)
  {
    char* mine = scratch + omp_get_thread_num() * scratch_bytes;
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = begin; i < end; ++i) body(i, mine);
  }
#else
  (void)threads, (void)scratch_bytes;
  for (int64_t i = begin; i < end; ++i) body(i, scratch);
#endif
}

const TypedKernels& typed(const Problem& problem) { return problem.is_double ? active()->f64 : active()->f32; }

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

void forward(const ForwardArgs& args) {
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
  const TypedKernels& kernels = typed(problem);
  const Plan plan = make_plan(problem, kernels.lanes, active()->rows_per_block, true);
  const int64_t bytes = ceil_div(kernels.backward_scratch_bytes(problem, plan), 64) * 64;
  const int64_t chunks = static_cast<int64_t>(plan.chunks.size());
  char* scratch = scratch_memory(bytes * min_of(problem.threads, chunks));
  const int64_t bias = (2 * problem.kernel[kZ] - 1) * (2 * problem.kernel[kY] - 1) * (2 * problem.kernel[kX] - 1);
  const int64_t bias_step = plan.heads_per_chunk * bias, bias_bytes = bias_step * (problem.is_double ? 8 : 4);
  const Memory sums = allocate(args.grad_rpb ? bias_bytes * chunks : 0);
  const auto work = [&](int64_t i, char* mine) {
    kernels.backward(args, plan, plan.chunks[static_cast<size_t>(i)], mine,
                     args.grad_rpb ? sums.get() + i * bias_bytes : nullptr);
  };
  run(0, plan.phase1, problem.threads, scratch, bytes, work);
  run(plan.phase1, chunks, problem.threads, scratch, bytes, work);
  if (!args.grad_rpb) return;
  if (problem.is_double)
    reduce_grad_bias(plan, reinterpret_cast<const double*>(sums.get()), bias_step, bias, problem.heads,
                     static_cast<double*>(args.grad_rpb));
  else
    reduce_grad_bias(plan, reinterpret_cast<const float*>(sums.get()), bias_step, bias, problem.heads,
                     static_cast<float*>(args.grad_rpb));
}

}  // namespace natten_core::cpu
