// Between columns and slots: a lane's slots are the columns from its offset on.
#pragma once

#include "../plan.h"
#include "sizes.h"

namespace natten_core::cpu::NATTEN_ISA {

// How far lanes move: the lanes whose offset has bit i, and how many bits there are.
struct Moves {
  __mmask16 lanes[4] = {};
  int bits = 0;

  explicit Moves(const LaneClass& c) {
    for (int lane = 0; lane < kTileLanes; ++lane)
      for (int i = 0; i < 4; ++i)
        if (c.offset[lane] >> i & 1) lanes[i] |= static_cast<__mmask16>(1u << lane), bits = i + 1 > bits ? i + 1 : bits;
  }
};

// The greatest offset of so many bits: none, 3 or 4.
template <int Bits>
constexpr int kReach = Bits == 0   ? 0
                       : Bits == 4 ? 15
                                   : 7;

}  // namespace natten_core::cpu::NATTEN_ISA
