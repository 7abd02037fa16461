#include "cuda/plan.h"

#include <cstdlib>
#include <sstream>
#include <stdexcept>

#include "cuda/band/band.h"
#include "cuda/box/box.h"
#include "cuda/dense/dense.h"
#include "cuda/simt/simt.h"
#include "natten_core/neighborhood.h"

namespace natten_core::cuda {
namespace {

constexpr int kTensorCoreArchitecture = 80;
constexpr int kVectorBytes = 16;  // what the tensor-core kernels copy at a time
constexpr char kUnaligned[] = "an address or a stride that is no multiple of 16 bytes";
constexpr char kNoTf32[] =
    "fp32 while TF32 is not allowed by torch's settings (torch.set_float32_matmul_precision('high') allows it)";

// Whether the family multiplies on tensor cores, which take fp32 in TF32.
bool in_tf32(Family family, const Problem& problem) {
  return problem.dtype == DType::kFloat32 && has_tensor_cores(family);
}

const char* device_reason(Family family, const Problem& problem, const Facts& facts) {
  if (facts.only != Family::kNone && facts.only != family) return "another family was asked for";
  if (family == Family::kSimt) return nullptr;
  if (facts.architecture < kTensorCoreArchitecture) return "a device before sm_80";
  if (!facts.tensor_cores) return "a device whose tensor-core kernels this build does not have";
  return nullptr;
}

const Problem& problem_of(const Problem& problem) { return problem; }
const Problem& problem_of(const ForwardArgs& args) { return args.problem; }
const Problem& problem_of(const BackwardArgs& args) { return args.forward.problem; }

void align(uint64_t& bits, const Tensor& tensor, int64_t item_bytes) {
  if (tensor.data == nullptr) return;
  bits |= reinterpret_cast<uintptr_t>(tensor.data);
  bits |= static_cast<uint64_t>(tensor.batch * item_bytes) | static_cast<uint64_t>(tensor.head * item_bytes);
  for (int64_t stride : tensor.axis) bits |= static_cast<uint64_t>(stride * item_bytes);
}

uint64_t forward_bits(const ForwardArgs& args) {
  const int64_t bytes = args.problem.element_bytes();
  uint64_t bits = 0;
  for (const Tensor* tensor :
       {&args.query, &args.key, &args.value, &args.additional_key, &args.additional_value, &args.output})
    align(bits, *tensor, bytes);
  return bits;
}

int largest_divisor(uint64_t bits) {
  int bytes = 16;
  while (bits % bytes != 0) bytes /= 2;
  return bytes;
}

const char* dtype_name(DType dtype) {
  switch (dtype) {
    case DType::kFloat32: return "float32";
    case DType::kFloat64: return "float64";
    case DType::kFloat16: return "float16";
    case DType::kBFloat16: return "bfloat16";
  }
  return "?";
}

}  // namespace

const char* name(Family family) {
  switch (family) {
    case Family::kDense: return "dense";
    case Family::kBand: return "band";
    case Family::kBox: return "box";
    case Family::kSimt: return "simt";
    case Family::kNone: return "none";
  }
  return "?";
}

std::string name(Family family, const Problem& problem) {
  std::string text = name(family);
  if (in_tf32(family, problem)) text += ", fp32 in TF32";
  return text;
}

const std::vector<Family>& families() {
  static const std::vector<Family> all = {Family::kDense, Family::kBand, Family::kBox, Family::kSimt};
  return all;
}

Family family_of(const std::string& wanted) {
  for (Family family : families())
    if (wanted == name(family)) return family;
  throw std::invalid_argument("no family of cuda kernels is called '" + wanted +
                              "': there are dense, band, box and simt");
}

int vector_bytes(const ForwardArgs& args) { return largest_divisor(forward_bits(args)); }

int vector_bytes(const BackwardArgs& args) {
  const int64_t bytes = args.forward.problem.element_bytes();
  uint64_t bits = forward_bits(args.forward);
  for (const Tensor* tensor : {&args.grad_output, &args.grad_query, &args.grad_key, &args.grad_value,
                               &args.grad_additional_key, &args.grad_additional_value})
    align(bits, *tensor, bytes);
  return largest_divisor(bits);
}

namespace {

const char* alignment_reason(const Problem&) { return nullptr; }
template <class Args>
const char* alignment_reason(const Args& args) {
  return vector_bytes(args) < kVectorBytes ? kUnaligned : nullptr;
}

// The band and box kernels find their way within a sample by 32-bit numbers of elements.
bool is_far(const Tensor& tensor, const Problem& problem) {
  int64_t reach = problem.head_dim;
  for (int axis = 0; axis < kRank; ++axis) {
    const int64_t stride = tensor.axis[axis];
    reach += (problem.extent[axis] + 2) * (stride < 0 ? -stride : stride) * problem.dilation[axis];
  }
  return reach >= INT64_C(1) << 31;
}
bool is_far(const Problem&) { return false; }
bool is_far(const ForwardArgs& args) {
  for (const Tensor* tensor : {&args.query, &args.key, &args.value, &args.output, &args.lse})
    if (is_far(*tensor, args.problem)) return true;
  return false;
}
bool is_far(const BackwardArgs& args) {
  for (const Tensor* tensor : {&args.grad_output, &args.grad_query, &args.grad_key, &args.grad_value, &args.grad_lse})
    if (is_far(*tensor, args.forward.problem)) return true;
  return is_far(args.forward);
}

// What the box kernels judge: their backward may need more shared memory than their forward.
const Problem& box_work(const Problem& problem) { return problem; }
const Problem& box_work(const ForwardArgs& args) { return args.problem; }
const BackwardArgs& box_work(const BackwardArgs& args) { return args; }

template <class Work>
const char* family_reason(Family family, const Work& work, const Facts& facts) {
  if (family == Family::kDense) return dense::unsupported(work, facts.architecture);
  if (family == Family::kBand) {
    if (const char* why = band::unsupported(problem_of(work), facts.architecture)) return why;
    return is_far(work) ? "a sample that spans 2^31 elements" : alignment_reason(work);
  }
  if (family == Family::kBox) {
    if (const char* why = box::unsupported(box_work(work), facts.architecture)) return why;
    return is_far(work) ? "a sample that spans 2^31 elements" : alignment_reason(work);
  }
  return simt::unsupported(problem_of(work));
}

// torch's settings come last: they are worth changing only where nothing else is in the way.
template <class Work>
const char* reason(Family family, const Work& work, const Facts& facts) {
  if (const char* why = device_reason(family, problem_of(work), facts)) return why;
  if (const char* why = family_reason(family, work, facts)) return why;
  return in_tf32(family, problem_of(work)) && !facts.tf32 ? kNoTf32 : nullptr;
}

}  // namespace

const char* unsupported(Family family, const Problem& problem, const Facts& facts) {
  return reason(family, problem, facts);
}
const char* unsupported(Family family, const ForwardArgs& args, const Facts& facts) {
  return reason(family, args, facts);
}
const char* unsupported(Family family, const BackwardArgs& args, const Facts& facts) {
  return reason(family, args, facts);
}

namespace {

// On paper: copies take about as long as simt does for 8 keys a query, and starting them as long as it does for 2^26
// products.
constexpr int64_t kLeastCopiedKeys = 16, kLeastCopiedProducts = 1 << 27;

// The arguments of a call on copies, as far as a plan asks for them.
Problem copied(const Problem&, const Problem& problem) { return problem; }
ForwardArgs copied(const ForwardArgs& args, const Problem& problem) {
  ForwardArgs copies;
  copies.problem = problem, copies.rpb = args.rpb;
  return copies;
}
BackwardArgs copied(const BackwardArgs& args, const Problem& problem) {
  BackwardArgs copies;
  copies.forward = copied(args.forward, problem), copies.grad_rpb = args.grad_rpb;
  return copies;
}

template <class Work>
int64_t copies_of(const Work& work, const Facts& facts) {
  Problem problem = problem_of(work);
  int64_t keys = 1, tokens = 1;
  for (int axis = 0; axis < kRank; ++axis) keys *= problem.kernel[axis], tokens *= problem.extent[axis];
  const int64_t chunk = kVectorBytes / problem.element_bytes();
  const int64_t head_dim = ceil_div(max_of(problem.head_dim, problem.head_dim_v), chunk) * chunk;
  const int64_t sample = tokens * problem.heads * head_dim;  // elements
  if (keys < kLeastCopiedKeys || sample >= INT64_C(1) << 31) return 0;
  if (sample * keys < kLeastCopiedProducts / problem.batch) return 0;
  problem.head_dim = problem.head_dim_v = head_dim;
  return has_tensor_cores(choose(copied(work, problem), facts)) ? head_dim : 0;
}

}  // namespace

int64_t copies_head_dim(const Problem& problem, const Facts& facts) { return copies_of(problem, facts); }
int64_t copies_head_dim(const ForwardArgs& args, const Facts& facts) { return copies_of(args, facts); }
int64_t copies_head_dim(const BackwardArgs& args, const Facts& facts) { return copies_of(args, facts); }

bool runs_on(const std::string& built, int architecture) {
  std::stringstream list(built);
  for (std::string entry; std::getline(list, entry, ',');) {
    const size_t dash = entry.find('-');
    const std::string kind = dash == std::string::npos ? "" : entry.substr(dash + 1);
    const int version = std::atoi(entry.c_str());
    if (version > architecture) continue;
    if (kind != "virtual" && version / 10 == architecture / 10) return true;
    if (kind != "real") return true;
  }
  return false;
}

std::string describe(const Problem& problem) {
  std::ostringstream text;
  const auto axes = [&](const char* label, const auto& values) {
    text << label;
    for (int axis = kRank - problem.rank; axis < kRank; ++axis)
      text << (axis > kRank - problem.rank ? "x" : "") << values[axis];
  };
  text << dtype_name(problem.dtype) << ", batch " << problem.batch;
  axes(", map ", problem.extent);
  text << ", heads " << problem.heads << " over " << problem.heads_kv << ", head_dim " << problem.head_dim << " and "
       << problem.head_dim_v;
  axes(", kernel_size ", problem.kernel);
  axes(", stride ", problem.stride);
  axes(", dilation ", problem.dilation);
  axes(", causal ", problem.causal);
  text << ", additional keys " << problem.additional << ", scale " << problem.scale;
  return text.str();
}

}  // namespace natten_core::cuda
