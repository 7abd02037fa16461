// Barriers in shared memory (mbarrier): phases that threads arrive at and wait for one by one, and that copies
// complete.
#pragma once

#include <cstdint>
#include <cstring>

#include "emulator/block.h"
#include "emulator/shared.h"

namespace emu {

inline Mbarrier* find_mbarrier(uint32_t address, const char* op, Site site) {
  const auto found = block()->mbarriers.find(address);
  if (found != block()->mbarriers.end()) return &found->second;
  report("mbarrier never initialised", site, "%s at %u by thread %u", op, address, block()->current->thread);
  return nullptr;
}

inline void mbarrier_init(uint32_t address, int count, Site site) {
  Block& b = *block();
  if (!in_shared(address, 8, "mbarrier_init", site)) return;
  if (count < 1) report("bad mbarrier", site, "a count of %d", count);
  note_write(*b.current, address, 8, "mbarrier_init", site, Write::kPlain);
  Mbarrier& m = b.mbarriers[address];
  m.count = m.pending = static_cast<unsigned>(count);
  m.phase = 0;
  m.clock.assign(b.warps.size(), 0), m.last_clock = m.clock;
  m.copies.clear();
}

// One arrival; the last of a phase makes its copies land, and wakes those that wait. It is one lane's: of what the
// other lanes did, those that wait learn what came before the warp's last syncwarp. (As clocks are a warp's, the lane's
// own accesses since then do not count either.)
inline void arrive_at(Mbarrier& m) {
  Block& b = *block();
  learn(m.clock, b.warp().clock);
  if (--m.pending > 0) return;
  for (const auto& [thread, copy] : m.copies) {
    land(b.fibers[thread], copy);
    Warp& writer = b.warps[b.fibers[thread].warp];
    writer.clock[b.fibers[thread].warp]++;
    learn(m.clock, writer.clock);
  }
  m.copies.clear();
  m.phase++;
  m.pending = m.count;
  m.last_clock = m.clock;
  for (const unsigned thread : m.waiting) b.fibers[thread].state = State::kReady;
  m.waiting.clear();
}

inline void mbarrier_arrive(uint32_t address, Site site) {
  if (Mbarrier* m = find_mbarrier(address, "mbarrier_arrive", site)) arrive_at(*m);
}

// An arrival that counts when the thread's copies so far have landed.
inline void cp_async_mbarrier_arrive(uint32_t address, Site site) {
  Fiber& mine = *block()->current;
  Mbarrier* m = find_mbarrier(address, "cp_async_mbarrier_arrive", site);
  if (!m) return;
  for (const Copy& copy : mine.copies) m->copies.emplace_back(mine.thread, copy);
  mine.copies.clear(), mine.group_end.clear();
  mine.groups_done = 0;
  arrive_at(*m);
}

// Until the phase of this parity is over; the one before the first counts as over.
inline void mbarrier_wait(uint32_t address, uint32_t parity, Site site) {
  Mbarrier* m = find_mbarrier(address, "mbarrier_wait", site);
  if (!m) return;
  Fiber& mine = *block()->current;
  while ((m->phase & 1) == parity) {
    mine.op = "mbarrier_wait", mine.site = site;
    mine.state = State::kBarrier;
    m->waiting.push_back(mine.thread);
    run_another();
  }
  learn(block()->warp().clock, m->last_clock);
}

}  // namespace emu
