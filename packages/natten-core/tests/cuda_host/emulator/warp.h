// What lanes and warps do together.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "emulator/block.h"
#include "emulator/shared.h"

namespace emu {

// Every lane leaves a pointer to its operands; the last one to arrive does the work of all. Lanes that have returned
// are missed, so that the collective hangs, unless `spare_returned`.
template <class Operands, class Work>
inline void warp_op(const char* op, Operands& operands, Site site, Work&& work, bool spare_returned = false) {
  Block& b = *block();
  Fiber& mine = *b.current;
  Warp& w = b.warps[mine.warp];
  if (!w.arrived) {
    w.op = op, w.site = site;
    w.wanted = spare_returned ? w.live : ~0u;
  } else if (std::strcmp(w.op, op) != 0 || !(w.site == site)) {
    report("divergent warp", site, "thread %u at %s, other lanes of warp %u at %s in line %d", mine.thread, op,
           mine.warp, w.op, w.site.line);
    abandon_block();  // the operands are not of one type
  }
  w.operands[mine.lane] = &operands;
  w.arrived |= 1u << mine.lane;
  mine.op = op, mine.site = site;
  if (w.arrived != w.wanted) {
    mine.state = State::kWarp;
    run_another();
    return;
  }
  w.arrived = 0;
  for (unsigned l = 0; l < 32; ++l)
    if (w.wanted >> l & 1) b.fibers[mine.warp * 32 + l].state = State::kReady;
  work(w, reinterpret_cast<Operands**>(w.operands));
}

// Orders what the lanes of a warp do in memory. Shuffles and products do not.
inline void syncwarp(Site site) {
  char nothing;
  warp_op("syncwarp", nothing, site, [](Warp& w, char**) { w.clock[block()->current->warp]++; });
}

inline void release_if_complete(Barrier& barrier) {
  Block& b = *block();
  if (!barrier.arrived || barrier.arrived < (barrier.wanted ? barrier.wanted : b.live)) return;
  for (const unsigned thread : barrier.waiting) {
    b.fibers[thread].state = State::kReady;
    learn(b.warps[b.fibers[thread].warp].clock, barrier.clock);
  }
  barrier.arrived = 0;
  barrier.waiting.clear();
  std::fill(barrier.clock.begin(), barrier.clock.end(), 0);
}

// A warp arrives at the barrier as one. Count 0: all threads that have not returned.
inline void barrier(int id, int count, bool wait, const char* op, Site site) {
  struct Operands {
    int id, count;
  } operands{id, count};
  Fiber& mine = *block()->current;
  const auto arrive = [&](Warp& w, Operands** lane) {
    Block& b = *block();
    if (id < 0 || id > 15 || count < 0 || count % 32 || count > static_cast<int>(b.fibers.size()))
      report("bad barrier", site, "%s(%d, %d)", op, id, count);
    Barrier& barrier = b.barriers[id & 15];
    for (unsigned l = 0; l < 32; ++l)
      if ((w.wanted >> l & 1) && (lane[l]->id != id || lane[l]->count != count))
        report("divergent barrier", site, "%s by warp %u", op, mine.warp);
    if (barrier.arrived && barrier.wanted != static_cast<unsigned>(count))
      report("barrier counts differ", site, "%s(%d, %d), others count %u", op, id, count, barrier.wanted);
    barrier.wanted = static_cast<unsigned>(count);
    barrier.arrived += static_cast<unsigned>(__builtin_popcount(w.wanted));
    w.clock[mine.warp]++;  // all that the warp has done has an earlier time
    learn(barrier.clock, w.clock);
    if (wait)
      for (unsigned l = 0; l < 32; ++l)
        if (w.wanted >> l & 1) {
          b.fibers[mine.warp * 32 + l].state = State::kBarrier;
          barrier.waiting.push_back(mine.warp * 32 + l);
        }
    release_if_complete(barrier);
  };
  warp_op(op, operands, site, arrive, true);
  if (mine.state != State::kReady) run_another();
}

// Lane l gives the address of row l % 8 of matrix l / 8; of an x1 or x2 load only the first lanes' addresses count.
inline void ldmatrix(uint32_t* registers, int matrices, uint32_t row, bool transposed, Site site) {
  struct Operands {
    uint32_t* registers;
    uint32_t row;
  } operands{registers, row};
  const char* op = transposed ? "ldmatrix.trans" : "ldmatrix";
  warp_op(op, operands, site, [=](Warp&, Operands** lane) {
    Block& b = *block();
    const unsigned warp = b.current->warp;
    uint16_t m[4][8][8];
    for (int l = 0; l < 8 * matrices; ++l) {
      std::memset(m[l >> 3][l & 7], 0xff, 16);
      if (!in_shared(lane[l]->row, 16, op, site)) continue;
      note_read(b.fibers[warp * 32 + static_cast<unsigned>(l)], lane[l]->row, 16, op, site);
      std::memcpy(m[l >> 3][l & 7], &b.shared[lane[l]->row - kSmemBase], 16);
    }
    for (int l = 0; l < 32; ++l)
      for (int j = 0; j < matrices; ++j) {
        const int r = l >> 2, c = (l & 3) * 2;
        const uint16_t low = transposed ? m[j][c][r] : m[j][r][c], high = transposed ? m[j][c + 1][r] : m[j][r][c + 1];
        lane[l]->registers[j] = low | static_cast<uint32_t>(high) << 16;
      }
    if (!options().count_banks) return;
    uint32_t rows[32] = {};
    for (int l = 0; l < 8 * matrices; ++l) rows[l] = lane[l]->row;
    note_wavefronts(op, site, wavefronts(rows, matrices == 4 ? ~0u : (1u << 8 * matrices) - 1, 16));
  });
}

}  // namespace emu
