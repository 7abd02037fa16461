// Sums by relative position that every group keeps for itself, so that none has to wait for another.
#pragma once

#include "cuda/simt/bias.h"

namespace natten_core::cuda::simt {

// A group's own table of grad_rpb; in shared memory all of a block's lie one after the other.
template <class A>
struct GroupTables {
  PrivateTable<A> mine;
  uint32_t shared;
  int entries;
  bool any;

  template <class Params>
  DEV_FN GroupTables(const Params& params, uint32_t shared_, int entries_, int head, const Lanes& lanes)
      : shared(shared_), entries(entries_), any(params.rpb_partial != nullptr && blockIdx.z == 0) {
    if (!any) return;
    if (params.rpb_in_shared) {
      mine.shared = shared + static_cast<uint32_t>(lanes.group() * entries) * static_cast<uint32_t>(sizeof(A));
    } else {
      const int slots = kThreads / lanes.count / params.tiling.heads;
      const int64_t slot = static_cast<int64_t>(blockIdx.x) * slots + lanes.group() / params.tiling.heads;
      mine.global =
          static_cast<A*>(params.rpb_partial) + (slot * params.shape.heads + head) * static_cast<int64_t>(entries);
    }
    for (int entry = lanes.index; entry < entries; entry += lanes.count) mine.set(entry, A(0));
    dev::syncwarp();
  }

  // Sums over the groups of equal head.
  template <class Params>
  DEV_FN void store(const Params& params, const Lanes& lanes) const {
    if (!any || !params.rpb_in_shared) return;
    dev::syncthreads();
    const int heads = params.tiling.heads, groups = kThreads / lanes.count;
    const int64_t first = static_cast<int64_t>(blockIdx.x) * params.shape.heads + blockIdx.y * heads;
    A* out = static_cast<A*>(params.rpb_partial) + first * entries;
    for (int i = static_cast<int>(threadIdx.x); i < heads * entries; i += kThreads) {
      A sum = 0;
      for (int group = 0; group < groups; group += heads)
        sum += dev::lds<A>(shared + static_cast<uint32_t>(group * entries + i) * static_cast<uint32_t>(sizeof(A)));
      dev::stg(out + i, sum);
    }
  }
};

}  // namespace natten_core::cuda::simt
