// What every kernel begins with: who the thread is, and what lies where in the block's shared memory.
#pragma once

#include "cuda/band/signals.h"
#include "cuda/box/bias.h"
#include "cuda/box/stage.h"
#include "cuda/box/tile.h"

namespace natten_core::cuda::box {

// Shared memory: the stages, with the statistics of their rows in the key-major pass; signals; biases.
template <class T, int D>
struct Block {
  int warp, lane, group, quad_lane;
  Tiles tiles;
  Stages<T, D> stages;
  band::Signals signals;

  DEV_FN Block(const Cut& cut, const Part& part, uint32_t shared, bool has_statistics)
      : warp(int(threadIdx.x >> 5)),
        lane(int(threadIdx.x & 31)),
        group(lane >> 2),
        quad_lane(lane & 3),
        tiles(cut, part),
        stages{shared, cut.stages, cut.stage_rows, cut.stage_columns},
        signals{has_statistics ? stages.statistics(stages.stages, 0) : stages.end()} {}

  // Of the biases: the row that is all -inf.
  DEV_FN uint32_t table() const { return signals.base + band::kSignalBytes + kBiasMargin * 8; }
  DEV_FN uint32_t end(const int* kernel) const {
    return signals.base + band::kSignalBytes + uint32_t(bias_bytes(kernel));
  }
  DEV_FN bool loads(const Cut& cut) const { return warp == cut.tiles_x * cut.tiles_y; }

  // By the block's first `threads` threads: biases of `head`, of [heads, relative positions] at `rpb`, or null.
  DEV_FN void fill(const int* kernel, const float* rpb, int head, float scale, int threads) const {
    fill_biases(table(), kernel, rpb ? rpb + int64_t(head) * relative_positions(kernel) : nullptr, 1.f / scale,
                threads);
  }
};

}  // namespace natten_core::cuda::box
