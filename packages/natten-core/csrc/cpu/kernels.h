// What one instruction set offers, and the choice among them.
#pragma once

#include <string>
#include <vector>

#include "natten_core/problem.h"
#include "plan.h"
#include "two_stage/kernels.h"

namespace natten_core::cpu {

// Kernels of one data type. Scratch memory must be 64-byte aligned; one piece per thread.
struct TypedKernels {
  int lanes;
  int64_t (*forward_scratch_bytes)(const Problem&, const Plan&);
  int64_t (*backward_scratch_bytes)(const Problem&, const Plan&);
  void (*forward)(const ForwardArgs&, const Plan&, const Chunk&, void* scratch);
  void (*backward)(const BackwardArgs&, const Plan&, const Chunk&, void* scratch, const ChunkSums&);
};

struct Kernels {
  const char* name;
  int rows_per_block;
  TypedKernels f32, f64, f16, bf16;
  TwoStageKernels two_stage32, two_stage64, two_stage16, two_stage_bf16;
  // Products of bf16 rather than float, see fused/pairs.h, and of tiles of them, see amx/sizes.h; may be empty.
  TypedKernels bf16_pairs = {}, bf16_tiles = {};
  TwoStageKernels two_stage_bf16_pairs = {};
};

extern const Kernels kGeneric;
extern const Kernels kAvx2;
extern const Kernels kAvx512;
extern const TypedKernels kAvx512Bf16Pairs;
extern const TypedKernels kAmxBf16Tiles;
extern const TwoStageKernels kAvx512Bf16PairsTwoStage;

std::vector<std::string> isa_built();    // best last, after what is never chosen by itself
std::vector<std::string> isa_present();  // built, and this machine has them; in the same order
std::string isa_active();

// Makes `name` the instruction set in use. Throws std::runtime_error where this machine or build lacks it.
void set_isa(const std::string& name);

void forward(const ForwardArgs& args);
void backward(const BackwardArgs& args);
void qk(const QkArgs& args);
void qk_backward(const QkBackwardArgs& args);
void av(const AvArgs& args);
void av_backward(const AvBackwardArgs& args);

}  // namespace natten_core::cpu
