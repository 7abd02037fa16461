// What the dense family can run, and how it cuts a problem. No CUDA needed.
#include <cstdint>
#include <initializer_list>

#include "cuda/dense/dense.h"
#include "cuda/dense/geometry.h"
#include "cuda/dense/shape.h"

namespace natten_core::cuda::dense {

namespace {

int64_t bytes_of(const Problem& problem) { return problem.dtype == DType::kFloat32 ? 4 : 2; }

bool copies_rows(const Tensor& tensor, const Problem& problem) {
  if (!tensor.data) return true;
  const int64_t chunk = 16 / bytes_of(problem);
  bool aligned = reinterpret_cast<uintptr_t>(tensor.data) % 16 == 0;
  aligned &= tensor.batch % chunk == 0 || problem.batch == 1;
  aligned &= tensor.head % chunk == 0 || problem.heads == 1;
  for (int axis = 0; axis < kRank; ++axis) aligned &= tensor.axis[axis] % chunk == 0 || problem.extent[axis] == 1;
  return aligned;
}

// What does not fit in the 16-bit kernels' types fits every device: see shape.h.
bool fits(const Problem& problem, int bytes_for_128, int architecture) {
  return problem.dtype != DType::kFloat32 || max_of(problem.head_dim, problem.head_dim_v) <= 64 ||
         bytes_for_128 <= shared_limit(architecture);
}

bool is_compact(const Tensor& tensor, const Problem& problem, int64_t bytes) {
  int64_t span = 1;
  for (int axis = 0; axis < kRank; ++axis) span += (problem.extent[axis] - 1) * tensor.axis[axis];
  return span * bytes < INT64_C(1) << 31;
}

constexpr char kUnaligned[] = "rows that do not start at multiples of 16 bytes";
constexpr char kWide[] = "a sample of 2 GiB or more";
constexpr char kLarge[] = "head_dim above 64 in fp32 with the shared memory of this device";

}  // namespace

const char* unsupported(const Problem& problem) { return unsupported(problem, Launch{}.architecture); }

const char* unsupported(const Problem& problem, int architecture) {
  if (problem.dtype == DType::kFloat64) return "fp64";
  if (problem.head_dim > 128 || problem.head_dim_v > 128) return "head_dim above 128";
  if (problem.dtype == DType::kFloat32) {
    if (problem.head_dim % 4 || problem.head_dim_v % 4) return "head_dim not a multiple of 4";
    if (!fits(problem, ForwardShape<dev::tf32, 128>::kSharedBytes, architecture)) return kLarge;
  } else if (problem.head_dim % 8 || problem.head_dim_v % 8) {
    return "head_dim not a multiple of 8";
  }
  if (problem.heads_kv != problem.heads) return "fewer heads of keys than of queries";
  if (problem.additional) return "additional keys";
  int64_t tokens = 1, maps = problem.batch;
  for (int axis = 0; axis < kRank; ++axis) {
    if (problem.stride[axis] > 1) return "stride above 1";
    if (problem.causal[axis]) return "a causal axis";
    tokens *= ceil_div(problem.extent[axis], problem.dilation[axis]);
    maps *= problem.dilation[axis];
  }
  if (tokens > kTokens) return "maps of more than 64 tokens";
  if (maps >= INT64_C(1) << 30 || problem.heads >= 1 << 16) return "2^30 maps or more";
  return nullptr;
}

const char* unsupported(const ForwardArgs& args, int architecture) {
  const Problem& problem = args.problem;
  if (const char* reason = unsupported(problem, architecture)) return reason;
  for (const Tensor* tensor : {&args.query, &args.key, &args.value, &args.output}) {
    if (!copies_rows(*tensor, problem)) return kUnaligned;
    if (!is_compact(*tensor, problem, bytes_of(problem))) return kWide;
  }
  return args.lse.data && !is_compact(args.lse, problem, 4) ? kWide : nullptr;
}

const char* unsupported(const BackwardArgs& args, int architecture) {
  const Problem& problem = args.forward.problem;
  if (const char* reason = unsupported(args.forward, architecture)) return reason;
  if (!fits(problem, BackwardShape<dev::tf32, 128>::kSharedBytes, architecture)) return kLarge;
  for (const Tensor* tensor : {&args.grad_output, &args.grad_query, &args.grad_key, &args.grad_value}) {
    if (!copies_rows(*tensor, problem)) return kUnaligned;
    if (!is_compact(*tensor, problem, bytes_of(problem))) return kWide;
  }
  return args.grad_lse.data && !is_compact(args.grad_lse, problem, 4) ? kWide : nullptr;
}

View view_of(const Tensor& tensor, int bytes) {
  View view;
  view.data = static_cast<char*>(tensor.data);
  view.batch = tensor.batch * bytes;
  view.head = tensor.head * bytes;
  for (int axis = 0; axis < kRank; ++axis) view.axis[axis] = static_cast<int32_t>(tensor.axis[axis] * bytes);
  return view;
}

Geometry geometry_of(const Problem& problem) {
  Geometry geometry = {};
  geometry.heads = static_cast<int32_t>(problem.heads);
  for (int axis = 0; axis < kRank; ++axis) {
    geometry.kernel[axis] = static_cast<int32_t>(problem.kernel[axis]);
    geometry.dilation[axis] = static_cast<int32_t>(problem.dilation[axis]);
  }
  for (int shape = 0; shape < kSegments; ++shape) {  // bit a: the shorter residue maps of axis a
    Segment segment = {};
    int64_t groups[kRank], maps = problem.batch;
    for (int axis = 0; axis < kRank; ++axis) {
      const int64_t length = problem.extent[axis], dilation = problem.dilation[axis], longer = length % dilation;
      const bool is_short = shape >> axis & 1;
      groups[axis] = is_short ? dilation - longer : longer;
      segment.first[axis] = static_cast<int32_t>(is_short ? longer : 0);
      segment.length[axis] = static_cast<int32_t>(length / dilation + (is_short ? 0 : 1));
      maps *= groups[axis];
    }
    if (maps == 0) continue;
    segment.maps = static_cast<int32_t>(maps);
    segment.groups_z = Divider(groups[kZ]), segment.groups_y = Divider(groups[kY]);
    segment.groups_x = Divider(groups[kX]);
    geometry.segment[geometry.segments++] = segment;
  }
  return geometry;
}

}  // namespace natten_core::cuda::dense
