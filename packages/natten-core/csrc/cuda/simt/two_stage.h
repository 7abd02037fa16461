// The two-stage form, see natten_core/two_stage.h, and its backward passes: for every dtype, rank and head_dim, like
// the rest of this family. What simt::unsupported says holds here too.
#pragma once

#include <cstddef>

#include "cuda/device/launch.h"
#include "natten_core/two_stage.h"

namespace natten_core::cuda::simt {

void qk_forward(const QkArgs& args, const Launch& launch);
// Workspaces: bytes of scratch, aligned to 256; their contents do not matter.
size_t qk_backward_workspace(const QkBackwardArgs& args);
void qk_backward(const QkBackwardArgs& args, void* workspace, const Launch& launch);

void av_forward(const AvArgs& args, const Launch& launch);
size_t av_backward_workspace(const AvBackwardArgs& args);
void av_backward(const AvBackwardArgs& args, void* workspace, const Launch& launch);

}  // namespace natten_core::cuda::simt
