// Chooses the instruction set, cuts the problem, and runs the chunks.
#include <stdexcept>

#include "amx/present.h"
#include "chunk_sums.h"
#include "kernels.h"
#include "parallel.h"

namespace natten_core::cpu {
namespace {

struct Candidate {
  const Kernels* kernels;
  bool present;
  std::string missing = "";  // why it is not present, if there is more to say
};

#if defined(NATTEN_BUILT_AVX512)
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

#if defined(NATTEN_BUILT_AVX512_BF16)
// Put together here, in baseline code, because it happens on every machine.
const Kernels& avx512_bf16() {
  static const Kernels kernels = [] {
    Kernels k = kAvx512;
    k.name = "avx512_bf16";
    k.bf16_pairs = kAvx512Bf16Pairs;
    k.two_stage_bf16_pairs = kAvx512Bf16PairsTwoStage;
    return k;
  }();
  return kernels;
}
#endif

#if !defined(NATTEN_BUILT_AMX)
#define NATTEN_AMX_NAME ""
#else
const Kernels& amx() {
  static const Kernels kernels = [] {
    Kernels k = kAvx512;
    k.name = NATTEN_AMX_NAME;
    k.bf16_tiles = kAmxBf16Tiles;
    return k;
  }();
  return kernels;
}

Candidate amx_candidate() {
  if (!has_avx512() || !__builtin_cpu_supports("avx512bf16")) return {&amx(), false, "it has no AVX-512 with bf16"};
#if defined(NATTEN_AMX_EMULATED)
  return {&amx(), true};
#else
  return {&amx(), amx_missing().empty(), amx_missing()};
#endif
}
#endif

// The fastest last. What nobody has measured comes first, and only `with_amx`: to look for it is to ask for permission.
std::vector<Candidate> candidates(bool with_amx) {
  std::vector<Candidate> all = {{&kGeneric, true}};
#if defined(NATTEN_BUILT_AVX2)
  all.push_back(
      {&kAvx2, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")});
#endif
#if defined(NATTEN_BUILT_AVX512)
  all.push_back({&kAvx512, has_avx512()});
#endif
#if defined(NATTEN_BUILT_AVX512_BF16)
  // Products of pairs take as long as those of floats on AMD's processors, and twice as long on Intel's.
  const Candidate pairs = {&avx512_bf16(), all.back().present && __builtin_cpu_supports("avx512bf16")};
  all.insert(__builtin_cpu_is("amd") ? all.end() : all.end() - 1, pairs);
#endif
#if defined(NATTEN_BUILT_AMX)
  if (with_amx) all.insert(all.begin(), amx_candidate());
#else
  (void)with_amx;
#endif
  return all;
}

std::vector<std::string> names(bool only_present) {
  std::vector<std::string> result;
  for (const Candidate& c : candidates(true))
    if (c.present || !only_present) result.push_back(c.kernels->name);
  return result;
}

const Kernels* best() {
  const Kernels* kernels = nullptr;
  for (const Candidate& c : candidates(false))
    if (c.present) kernels = c.kernels;
  return kernels;
}

const Kernels*& active() {
  static const Kernels* kernels = best();
  return kernels;
}

// Products of bf16 take subnormal numbers for zero, which one key's value must not be.
bool may_multiply_bf16(const Problem& p) {
  return p.dtype == DType::kBFloat16 && p.kernel[kZ] * p.kernel[kY] * p.kernel[kX] > 1;
}

// Pairs have the bias divided by the scale.
bool is_paired(const Problem& p) { return active()->bf16_pairs.forward && may_multiply_bf16(p) && p.scale > 1e-20; }

bool is_tiled(const Problem& p) { return active()->bf16_tiles.forward && may_multiply_bf16(p); }

const TypedKernels& typed(const Problem& problem) {
  switch (problem.dtype) {
    case DType::kFloat64: return active()->f64;
    case DType::kFloat16: return active()->f16;
    case DType::kBFloat16:
      return is_tiled(problem) ? active()->bf16_tiles : is_paired(problem) ? active()->bf16_pairs : active()->bf16;
    case DType::kFloat32: break;
  }
  return active()->f32;
}

// Passes without scores gain by pairs of key rows alone.
bool is_paired(const Problem& p, TwoStagePass pass) {
  const bool scores = pass == TwoStagePass::kQk || pass == TwoStagePass::kAvBackward;
  return is_paired(p) && (scores || has_row_pairs(p));
}

const TwoStageKernels& two_stage(const Problem& problem, TwoStagePass pass) {
  switch (problem.dtype) {
    case DType::kFloat64: return active()->two_stage64;
    case DType::kFloat16: return active()->two_stage16;
    case DType::kBFloat16: return is_paired(problem, pass) ? active()->two_stage_bf16_pairs : active()->two_stage_bf16;
    case DType::kFloat32: break;
  }
  return active()->two_stage32;
}

// Work is called with each chunk and the scratch memory of its thread.
template <class Work>
void run_chunks(const Problem& problem, const Plan& plan, int64_t scratch_bytes, Work work) {
  const int64_t bytes = ceil_div(scratch_bytes, 64) * 64, chunks = static_cast<int64_t>(plan.chunks.size());
  char* scratch = scratch_memory(bytes * min_of(problem.threads, chunks));
  const auto chunk = [&](int64_t i, char* mine) { work(i, plan.chunks[static_cast<size_t>(i)], mine); };
  run(0, plan.phase1, problem.threads, scratch, bytes, chunk);
  run(plan.phase1, chunks, problem.threads, scratch, bytes, chunk);
}

// As run_chunks, for work that gets the chunk's own sums too, which are then added up to the gradients that `shared`
// tells of.
template <class Work>
void run_with_sums(const Problem& problem, const Plan& plan, int64_t scratch_bytes, const SharedGradients& shared,
                   Work work) {
  const SumsOfChunks sums(problem, plan, shared);
  run_chunks(problem, plan, scratch_bytes,
             [&](int64_t i, const Chunk& chunk, char* mine) { work(chunk, mine, sums.of(i)); });
  sums.add_up();
}

// The plan of a pass, and the memory that a thread needs for it.
struct TwoStageWork {
  const TwoStageKernels& kernels;
  Plan plan;
  int64_t scratch_bytes;
  TwoStageWork(const Problem& p, TwoStagePass pass)
      : kernels(two_stage(p, pass)),
        plan(make_plan(p, kernels.lanes, active()->rows_per_block,
                       pass == TwoStagePass::kQkBackward || pass == TwoStagePass::kAvBackward)),
        scratch_bytes(kernels.scratch_bytes(p, plan, pass)) {}
};

}  // namespace

std::vector<std::string> isa_built() { return names(false); }
std::vector<std::string> isa_present() { return names(true); }
std::string isa_active() { return active()->name; }

void set_isa(const std::string& name) {
  for (const Candidate& c : candidates(name == NATTEN_AMX_NAME)) {
    if (name != c.kernels->name) continue;
    if (!c.present)
      throw std::runtime_error("this machine has no " + name + (c.missing.empty() ? "" : ": " + c.missing));
    active() = c.kernels;
    return;
  }
  throw std::runtime_error("this build has no kernels for '" + name + "'");
}

void forward(const ForwardArgs& args) {
  const Problem& problem = args.problem;
  const TypedKernels& kernels = typed(problem);
  const Plan plan = make_plan(problem, kernels.lanes, active()->rows_per_block, false);
  run_chunks(problem, plan, kernels.forward_scratch_bytes(problem, plan),
             [&](int64_t, const Chunk& chunk, char* mine) { kernels.forward(args, plan, chunk, mine); });
}

void backward(const BackwardArgs& args) {
  const Problem& problem = args.forward.problem;
  const TypedKernels& kernels = typed(problem);
  const Plan plan = make_plan(problem, kernels.lanes, active()->rows_per_block, true);
  run_with_sums(
      problem, plan, kernels.backward_scratch_bytes(problem, plan),
      {args.grad_rpb, &args.grad_additional_key, &args.grad_additional_value},
      [&](const Chunk& chunk, char* mine, const ChunkSums& sums) { kernels.backward(args, plan, chunk, mine, sums); });
}

void qk(const QkArgs& args) {
  const TwoStageWork work(args.problem, TwoStagePass::kQk);
  run_chunks(args.problem, work.plan, work.scratch_bytes,
             [&](int64_t, const Chunk& chunk, char* mine) { work.kernels.qk(args, work.plan, chunk, mine); });
}

void qk_backward(const QkBackwardArgs& args) {
  const Problem& problem = args.forward.problem;
  const TwoStageWork work(problem, TwoStagePass::kQkBackward);
  run_with_sums(problem, work.plan, work.scratch_bytes, {args.grad_rpb, &args.grad_additional_key, nullptr},
                [&](const Chunk& chunk, char* mine, const ChunkSums& sums) {
                  work.kernels.qk_backward(args, work.plan, chunk, mine, sums);
                });
}

void av(const AvArgs& args) {
  const TwoStageWork work(args.problem, TwoStagePass::kAv);
  run_chunks(args.problem, work.plan, work.scratch_bytes,
             [&](int64_t, const Chunk& chunk, char* mine) { work.kernels.av(args, work.plan, chunk, mine); });
}

void av_backward(const AvBackwardArgs& args) {
  const Problem& problem = args.forward.problem;
  const TwoStageWork work(problem, TwoStagePass::kAvBackward);
  run_with_sums(problem, work.plan, work.scratch_bytes, {nullptr, nullptr, &args.grad_additional_value},
                [&](const Chunk& chunk, char* mine, const ChunkSums& sums) {
                  work.kernels.av_backward(args, work.plan, chunk, mine, sums);
                });
}

}  // namespace natten_core::cpu
