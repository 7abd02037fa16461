// cp.async: the bytes arrive when they are waited for, and are poison until then.
#pragma once

#include <cstdint>
#include <cstring>

#include "emulator/block.h"
#include "emulator/global.h"
#include "emulator/shared.h"

namespace emu {

inline void cp_async(uint32_t target, const void* source, uint32_t bytes, uint32_t source_bytes, Site site) {
  Fiber& mine = *block()->current;
  if (!in_shared(target, bytes, "cp_async", site)) return;
  if (reinterpret_cast<uintptr_t>(source) % bytes)
    report("misaligned global access", site, "cp_async of %u bytes by thread %u", bytes, mine.thread);
  if (source_bytes && !touch_global(source, source_bytes, false, "cp_async", site)) source_bytes = 0;
  note_write(mine, target, bytes, "cp_async", site, Write::kIssued);
  if (options().count_banks) gather("cp_async", site, target, bytes);
  std::memset(&block()->shared[target - kSmemBase], 0xff, bytes);
  mine.copies.push_back({target, source, bytes, source_bytes, site});
}
inline void land(Fiber& issuer, const Copy& c) {
  uint8_t* target = &block()->shared[c.target - kSmemBase];
  std::memcpy(target, c.source, c.source_bytes);
  std::memset(target + c.source_bytes, 0, c.bytes - c.source_bytes);
  note_write(issuer, c.target, c.bytes, "cp_async", c.site, Write::kLanded);
}
inline void cp_commit() {
  Fiber& mine = *block()->current;
  mine.group_end.push_back(static_cast<uint32_t>(mine.copies.size()));
}
inline void cp_wait(unsigned pending) {
  Fiber& mine = *block()->current;
  for (; mine.group_end.size() - mine.groups_done > pending; ++mine.groups_done) {
    const uint32_t first = mine.groups_done ? mine.group_end[mine.groups_done - 1] : 0;
    for (uint32_t i = first; i < mine.group_end[mine.groups_done]; ++i) land(mine, mine.copies[i]);
  }
  if (mine.groups_done == mine.group_end.size() &&
      (mine.group_end.empty() ? mine.copies.empty() : mine.group_end.back() == mine.copies.size())) {
    mine.copies.clear(), mine.group_end.clear();
    mine.groups_done = 0;
  }
}

}  // namespace emu
