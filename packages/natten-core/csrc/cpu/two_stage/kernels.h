// The two stages, made of the fused kernel's parts.
#pragma once

#include "../plan.h"
#include "natten_core/two_stage.h"

namespace natten_core::cpu {

enum class TwoStagePass { kQk, kQkBackward, kAv, kAvBackward };

// Kernels of one data type. Scratch memory must be 64-byte aligned; one piece per thread.
struct TwoStageKernels {
  int lanes;
  int64_t (*scratch_bytes)(const Problem&, const Plan&, TwoStagePass);
  void (*qk)(const QkArgs&, const Plan&, const Chunk&, void* scratch);
  void (*qk_backward)(const QkBackwardArgs&, const Plan&, const Chunk&, void* scratch, const ChunkSums&);
  void (*av)(const AvArgs&, const Plan&, const Chunk&, void* scratch);
  void (*av_backward)(const AvBackwardArgs&, const Plan&, const Chunk&, void* scratch, const ChunkSums&);
};

}  // namespace natten_core::cpu
