// The gradient of the bias of a block's maps, from sums of dS by query and key to sums by offset.
#pragma once

#include "cuda/dense/window.cuh"

namespace natten_core::cuda::dense {

// Sums `bias`, the sums of dS over the maps of a segment, by offset into the block's `partial`, on top of what is there
// unless the segment is the `first`. Entry e is of thread e % kThreads. `matrix` is shared [64, 64] floats.
template <int kKeyTiles>
DEV_FN void add_entries(float* partial, bool first, const float (&bias)[kKeyTiles][4], uint32_t matrix,
                        const Geometry& geometry, const Segment& segment) {
  dev::syncthreads();
  const auto at = [&](int query, int key) { return matrix + (query * kTokens + (key ^ ((query & 3) << 3))) * 4; };
#pragma unroll
  for (int n = 0; n < kKeyTiles; ++n)
#pragma unroll
    for (int half = 0; half < 2; ++half)
      dev::sts(at(fragment_row() + half * 8, n * 8 + (lane_of() & 3) * 2),
               dev::vec<float, 2>{{bias[n][half * 2], bias[n][half * 2 + 1]}});
  dev::syncthreads();
  for (int entry = static_cast<int>(threadIdx.x); entry < bias_entries(geometry); entry += kThreads) {
    // Queries whose key at the entry's offset is in the map, and its token number less theirs.
    int begin[kRank], end[kRank], step = 0;
    int rest = entry, stride = 1;
#pragma unroll
    for (int axis = kX; axis >= kZ; --axis) {
      const int width = 2 * geometry.kernel[axis] - 1, offset = rest % width - geometry.kernel[axis] + 1;
      rest /= width;
      begin[axis] = offset < 0 ? -offset : 0;
      end[axis] = segment.length[axis] - (offset > 0 ? offset : 0);
      step += offset * stride;
      stride *= segment.length[axis];
    }
    float sum = first ? 0.0f : dev::ldg(partial + entry);
    for (int z = begin[kZ]; z < end[kZ]; ++z)
      for (int y = begin[kY]; y < end[kY]; ++y)
        for (int x = begin[kX]; x < end[kX]; ++x) {
          const int query = (z * segment.length[kY] + y) * segment.length[kX] + x;
          sum += dev::lds<float>(at(query, query + step));
        }
    dev::stg(partial + entry, sum);
  }
}

}  // namespace natten_core::cuda::dense
