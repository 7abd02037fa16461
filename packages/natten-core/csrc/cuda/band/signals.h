// How the warp that loads and those that compute wait for one another, and for nobody else.
#pragma once

#include "cuda/band/geometry.h"
#include "cuda/device/primitives.h"

namespace natten_core::cuda::band {

// Two mbarriers for each of the steps that may be under way: its rows are there, and it needs them no more. Steps are
// numbered over all that a block does.
struct Signals {
  static constexpr int kStages = kSignalStages;
  uint32_t base;

  DEV_FN void start(int computing_warps) const {
    for (int stage = 0; stage < kStages; ++stage) {
      dev::mbarrier_init(base + uint32_t(stage * 16), 32);
      dev::mbarrier_init(base + uint32_t(stage * 16 + 8), computing_warps);
    }
  }
  DEV_FN void will_load(int step) const { dev::cp_async_mbarrier_arrive(at(step)); }
  DEV_FN void wait_loaded(int step) const { dev::mbarrier_wait(at(step), parity(step)); }
  DEV_FN void set_done(int step, int lane) const {
    dev::syncwarp();
    if (lane == 0) dev::mbarrier_arrive(at(step) + 8);
  }
  DEV_FN void wait_done(int step) const { dev::mbarrier_wait(at(step) + 8, parity(step)); }

 private:
  DEV_FN uint32_t at(int step) const { return base + uint32_t(step % kStages * 16); }
  static DEV_FN uint32_t parity(int step) { return uint32_t(step / kStages & 1); }
};

}  // namespace natten_core::cuda::band
