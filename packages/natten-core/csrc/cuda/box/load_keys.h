// The warp that loads keys and values, in the kernels whose other warps have tiles of queries.
#pragma once

#include "cuda/band/signals.h"
#include "cuda/box/stage.h"

namespace natten_core::cuda::box {

static_assert(band::Signals::kStages >= kMostStages, "signals of the planes under way");

// All planes that the part sees, one after the other; of `key_head`, from row `row` and column `column` on.
template <class T, int D, class Params>
DEV_FN void load_keys(const Params& p, const Part& part, const Stages<T, D>& stages, const band::Signals& signals,
                      int key_head, int row, int column) {
  const Steps key_steps(p.key, p.cut), value_steps(p.value, p.cut);
  int step = 0;
  for (int unit = part.unit; unit < part.unit_end; ++unit) {
    const int sample = unit / part.map.length[kZ], begin = start(part.map, kZ, unit % part.map.length[kZ]);
    for (int z = begin; z < begin + part.map.kernel[kZ]; ++z, ++step) {
      if (step >= stages.stages) signals.wait_done(step - stages.stages);
      stages.load(stages.of(step), part, plane_of(p.key, p.cut, part, sample, z, key_head), key_steps,
                  plane_of(p.value, p.cut, part, sample, z, key_head), value_steps, row, stages.rows, column,
                  p.head_dim);
      signals.will_load(step);
    }
  }
}

}  // namespace natten_core::cuda::box
