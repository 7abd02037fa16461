// Which family of kernels runs a problem, and why not the ones before it: pure functions, in every build.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "natten_core/problem.h"

namespace natten_core::cuda {

// Best first.
enum class Family { kDense, kBand, kBox, kSimt, kNone };

// What the choice depends on beside the problem.
struct Facts {
  int architecture = 90;         // of the device: 75, 80, 86, 89, 90, 100, 120
  bool tensor_cores = true;      // whether this build has tensor-core kernels for the architecture
  Family only = Family::kNone;   // the one family allowed, for tests; kNone: any
  bool tf32 = false;             // whether products of fp32 may round their factors to TF32
};

struct Rejection {
  Family family;
  std::string reason;
};

struct Variant {
  Family family = Family::kNone;
  std::vector<Rejection> passed_over;  // the families before it
};

const char* name(Family family);
// The family, and how it takes the problem's dtype where that is not plain: "dense, fp32 in TF32".
std::string name(Family family, const Problem& problem);
// Throws std::invalid_argument for a name that no family has.
Family family_of(const std::string& name);
// Those that this version of the sources has, best first.
const std::vector<Family>& families();

// Null where `family` can run it, or the reason. Cheap: nothing is allocated. A problem alone is taken to lie well in
// memory; arguments are judged by their addresses and strides too.
const char* unsupported(Family family, const Problem& problem, const Facts& facts);
const char* unsupported(Family family, const ForwardArgs& args, const Facts& facts);
const char* unsupported(Family family, const BackwardArgs& args, const Facts& facts);

template <class Work>
Family choose(const Work& work, const Facts& facts) {
  for (Family family : families())
    if (unsupported(family, work, facts) == nullptr) return family;
  return Family::kNone;
}

template <class Work>
Variant explain(const Work& work, const Facts& facts) {
  Variant variant;
  for (Family family : families()) {
    const char* reason = unsupported(family, work, facts);
    if (reason == nullptr) {
      variant.family = family;
      break;
    }
    variant.passed_over.push_back({family, reason});
  }
  return variant;
}

inline bool has_tensor_cores(Family family) { return family != Family::kSimt && family != Family::kNone; }

// For what no tensor-core family takes as it is: the head_dim of copies, of all tensors alike and in rows of whole
// 16-byte chunks, that one takes and that are worth making; 0 where there are none.
int64_t copies_head_dim(const Problem& problem, const Facts& facts);
int64_t copies_head_dim(const ForwardArgs& args, const Facts& facts);
int64_t copies_head_dim(const BackwardArgs& args, const Facts& facts);

// Largest power of two, up to 16, that divides the address and the strides (in bytes) of every tensor that is there.
int vector_bytes(const ForwardArgs& args);
int vector_bytes(const BackwardArgs& args);

// Whether kernels built for `built` ("80-real,90": comma-separated; with -real machine code, with -virtual code for
// later compilation, bare both) run on `architecture`.
bool runs_on(const std::string& built, int architecture);

// The problem in a line, for error messages.
std::string describe(const Problem& problem);

}  // namespace natten_core::cuda
