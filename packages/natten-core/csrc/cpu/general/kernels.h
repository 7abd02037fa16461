// The general kernels: every window, grouped heads, additional keys, and the two-stage form of these.
// Slower per product than the fused ones where those apply.
#pragma once

#include "natten_core/problem.h"
#include "natten_core/two_stage.h"
#include "plan.h"

namespace natten_core::cpu {

enum class GeneralPass { kForward, kBackward, kQk, kQkBackward, kAv, kAvBackward };

// Kernels of one data type. Scratch memory must be 64-byte aligned; one piece per thread. `sums` is the chunk's own.
struct GeneralKernels {
  int64_t (*scratch_bytes)(const Problem&, const GeneralPlan&, GeneralPass);
  void (*forward)(const ForwardArgs&, const GeneralPlan&, const GeneralChunk&, void* scratch);
  void (*backward)(const BackwardArgs&, const GeneralPlan&, const GeneralChunk&, void* scratch, void* sums);
  void (*qk)(const QkArgs&, const GeneralPlan&, const GeneralChunk&, void* scratch);
  void (*qk_backward)(const QkBackwardArgs&, const GeneralPlan&, const GeneralChunk&, void* scratch, void* sums);
  void (*av)(const AvArgs&, const GeneralPlan&, const GeneralChunk&, void* scratch);
  void (*av_backward)(const AvBackwardArgs&, const GeneralPlan&, const GeneralChunk&, void* scratch, void* sums);
};

}  // namespace natten_core::cpu
