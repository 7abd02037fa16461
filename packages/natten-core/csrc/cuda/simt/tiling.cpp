#include "cuda/simt/tiling.h"

#include <algorithm>

#include "natten_core/neighborhood.h"

namespace natten_core::cuda::simt {
namespace {

// Neighbouring heads are neighbours in memory: a block takes enough of them to use what a memory access brings.
constexpr int64_t kNearBytes = 256;
constexpr int64_t kMaxShared = 48 * 1024;
// Blocks of the query pass, where each sums its own table of grad_rpb, and what these may take outside shared memory.
constexpr int64_t kTableBlocks = 2048, kLeastTableBlocks = 128;
constexpr int64_t kTableBytes = 64 << 20;
constexpr int64_t kAdditionalGroups = 8192, kLeastChunk = 32;

size_t aligned(size_t bytes) { return (bytes + 255) / 256 * 256; }

}  // namespace

int element_bytes(DType dtype) {
  switch (dtype) {
    case DType::kFloat64: return 8;
    case DType::kFloat32: return 4;
    default: return 2;
  }
}

bool is_vectorized(const Problem& problem, int64_t dim) {
  return dim % (16 / element_bytes(problem.dtype)) == 0 && dim <= kMaxLanes * kElements;
}

bool is_aligned(const Tensor& tensor, const Problem& problem, bool on_map) {
  const int64_t vector = 16 / element_bytes(problem.dtype);
  if (tensor.data == nullptr) return true;
  if (reinterpret_cast<uintptr_t>(tensor.data) % 16 != 0 || tensor.head % vector != 0) return false;
  if (problem.batch > 1 && tensor.batch % vector != 0) return false;
  for (int axis = 0; axis < kRank; ++axis) {
    const int64_t length = on_map ? problem.extent[axis] : axis == kX ? problem.additional : 1;
    if (length > 1 && tensor.axis[axis] % vector != 0) return false;
  }
  return true;
}

bool is_vectorized(const ForwardArgs& args) {
  const Problem& problem = args.problem;
  if (!is_vectorized(problem, problem.head_dim) || !is_vectorized(problem, problem.head_dim_v)) return false;
  for (const Tensor* tensor : {&args.query, &args.key, &args.value, &args.output})
    if (!is_aligned(*tensor, problem)) return false;
  return is_aligned(args.additional_key, problem, false) && is_aligned(args.additional_value, problem, false);
}

bool is_vectorized(const BackwardArgs& args) {
  for (const Tensor* tensor : {&args.grad_output, &args.grad_query, &args.grad_key, &args.grad_value})
    if (!is_aligned(*tensor, args.forward.problem)) return false;
  return is_vectorized(args.forward);
}

Tiling make_tiling(const Problem& problem, int64_t heads, int tokens) {
  Tiling tiling;
  const int64_t dim = std::max(problem.head_dim, problem.head_dim_v);
  while (tiling.lanes < kMaxLanes && tiling.lanes * kElements < dim) tiling.lanes *= 2;
  tiling.parts = static_cast<int>(ceil_div(dim, tiling.lanes * kElements));

  int groups = kThreads / tiling.lanes;
  const auto take_heads = [&] {
    if (heads % (2 * tiling.heads) != 0) return false;
    tiling.heads *= 2, groups /= 2;
    return true;
  };
  while (groups > 1 && 2 * tiling.heads * dim * element_bytes(problem.dtype) <= kNearBytes && take_heads()) {
  }
  // The rest goes to the map, as square as can be: then tiles share the most keys.
  while (groups > 1) {
    int best = -1;
    int64_t least = 0;
    for (int axis = 0; axis < kRank; ++axis) {
      const int64_t covered = tiling.slots[axis] * (axis == kX ? tokens : 1);
      if (covered >= group_length(problem.extent[axis], problem.dilation[axis], 0)) continue;
      if (best < 0 || covered <= least) best = axis, least = covered;
    }
    if (best < 0 && take_heads()) continue;
    tiling.slots[best < 0 ? kX : best] *= 2, groups /= 2;
  }

  int64_t blocks = problem.batch;
  for (int axis = 0; axis < kRank; ++axis) {
    const int64_t covered = tiling.slots[axis] * (axis == kX ? tokens : 1);
    tiling.cells[axis] =
        static_cast<int>(ceil_div(group_length(problem.extent[axis], problem.dilation[axis], 0), covered));
    blocks *= tiling.cells[axis] * problem.dilation[axis];
  }
  tiling.blocks = static_cast<int>(blocks);
  tiling.head_blocks = static_cast<int>(heads / tiling.heads);
  return tiling;
}

Scratch lay_out_scratch(const Problem& problem, int per_query, bool grad_rpb, int query_tile, int key_tile) {
  const int64_t sum = problem.is_double() ? 8 : 4;
  const int64_t tokens = problem.extent[kZ] * problem.extent[kY] * problem.extent[kX];
  Scratch scratch;
  scratch.rpb = aligned(per_query * problem.batch * tokens * problem.heads * sum);
  scratch.additional = scratch.total = scratch.rpb;
  if (grad_rpb) {
    const Tiling tiling = make_tiling(problem, problem.heads, query_tile);
    int64_t entries = 1;
    for (int axis = 0; axis < kRank; ++axis) entries *= 2 * problem.kernel[axis] - 1;
    const int64_t groups = kThreads / tiling.lanes, shared = groups * entries * sum;
    int64_t slots = 1, most = ceil_div(kTableBlocks, tiling.head_blocks);
    if (shared <= kMaxShared) {
      scratch.rpb_shared = static_cast<int>(shared);
    } else {
      slots = groups / tiling.heads;
      const int64_t fits = kTableBytes / (slots * problem.heads * entries * sum);
      most = min_of(most, max_of(fits, ceil_div(kLeastTableBlocks, tiling.head_blocks)));
    }
    scratch.rpb_chunks = static_cast<int>(min_of(tiling.blocks, most));
    scratch.rpb_slots = static_cast<int>(scratch.rpb_chunks * slots);
    scratch.additional = scratch.total = scratch.rpb + aligned(scratch.rpb_slots * problem.heads * entries * sum);
  }
  if (problem.additional > 0) {
    const int64_t units = problem.batch * problem.heads_kv * ceil_div(problem.additional, key_tile);
    const int64_t chunks = max_of(1, min_of(kAdditionalGroups / max_of(1, units), ceil_div(tokens, kLeastChunk)));
    scratch.additional_units = static_cast<int>(units);
    scratch.additional_chunks = static_cast<int>(chunks);
    scratch.total += aligned(chunks * problem.batch * problem.additional * problem.heads_kv *
                             (problem.head_dim + problem.head_dim_v) * sum);
  }
  return scratch;
}

Scratch lay_out_scratch(const BackwardArgs& args, bool vectorized) {
  const Problem& problem = args.forward.problem;
  return lay_out_scratch(problem, 2, args.grad_rpb != nullptr, vectorized ? query_tokens(problem.dtype) : 1,
                         vectorized ? key_tokens(problem.dtype) : 1);
}

}  // namespace natten_core::cuda::simt
