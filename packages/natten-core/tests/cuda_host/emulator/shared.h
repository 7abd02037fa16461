// Shared memory: bounds, alignment, races, contents never written, bank conflicts.
#pragma once

#include <cstdint>
#include <cstring>
#include <set>

#include "emulator/block.h"

namespace emu {

inline bool in_shared(uint32_t address, uint32_t bytes, const char* op, Site site) {
  Block& b = *block();
  if (address % bytes) {
    report("misaligned shared access", site, "%s of %u bytes at offset %u by thread %u", op, bytes, address - kSmemBase,
           b.current->thread);
    return false;
  }
  if (address < kSmemBase || size_t{address} - kSmemBase + bytes > b.shared.size()) {
    report("shared memory out of bounds", site, "%s of %u bytes at offset %d of %zu by thread %u", op, bytes,
           static_cast<int>(address - kSmemBase), b.shared.size(), b.current->thread);
    return false;
  }
  return true;
}

inline void note_read(Fiber& mine, uint32_t address, uint32_t bytes, const char* op, Site site) {
  Block& b = *block();
  const size_t warps = b.warps.size();
  const uint32_t offset = address - kSmemBase, now = b.warps[mine.warp].clock[mine.warp];
  for (uint32_t g = offset / kGranule; g <= (offset + bytes - 1) / kGranule; ++g) {
    const Cell& cell = b.cells[g];
    if (cell.in_flight)
      report("read of a copy not waited for", site, "%s by thread %u at offset %u", op, mine.thread, g * kGranule);
    else if (!cell.written)
      report("read of uninitialised shared memory", site, "%s by thread %u at offset %u", op, mine.thread,
             g * kGranule);
    else if (!before_now(mine, cell.thread, cell.time))
      report("race: read after write", site, "%s by thread %u at offset %u, written by thread %u", op, mine.thread,
             g * kGranule, cell.thread);
    uint32_t& last = b.reads[g * warps + mine.warp];
    last = now << 6 | (last >> 6 == now && (last & 63) != mine.lane ? 32 : mine.lane);
  }
}

enum class Write { kPlain, kIssued, kLanded };  // cp.async writes twice

inline void note_write(Fiber& mine, uint32_t address, uint32_t bytes, const char* op, Site site, Write kind) {
  Block& b = *block();
  const unsigned warps = static_cast<unsigned>(b.warps.size());
  const uint32_t offset = address - kSmemBase, now = b.warps[mine.warp].clock[mine.warp];
  for (uint32_t g = offset / kGranule; g <= (offset + bytes - 1) / kGranule; ++g) {
    Cell& cell = b.cells[g];
    if (kind != Write::kLanded) {
      if (cell.in_flight)
        report("write over a copy not waited for", site, "%s by thread %u at offset %u", op, mine.thread, g * kGranule);
      else if (cell.written && !before_now(mine, cell.thread, cell.time))
        report("race: write after write", site, "%s by thread %u at offset %u, written by thread %u", op, mine.thread,
               g * kGranule, cell.thread);
    }
    for (unsigned w = 0; w < warps; ++w) {
      uint32_t& last = b.reads[g * warps + w];
      if (!last) continue;
      const bool own = w == mine.warp && (last & 63) == mine.lane;
      if (!own && last >> 6 >= b.warps[mine.warp].clock[w])
        report("race: write after read", site, "%s by thread %u at offset %u, read by warp %u", op, mine.thread,
               g * kGranule, w);
      last = 0;
    }
    cell = {now, static_cast<uint16_t>(mine.thread), true, kind == Write::kIssued};
  }
}

// ---- bank conflicts

// Passes over the banks that lanes make which access `bytes` each at the addresses. Words are fetched once for all;
// 8-byte accesses go by half warps, 16-byte accesses by quarters.
inline Wavefronts wavefronts(const uint32_t* address, uint32_t lanes, uint32_t bytes) {
  const int together = bytes == 16 ? 8 : bytes == 8 ? 16 : 32;
  Wavefronts sum{1, 0, 0};
  for (int first = 0; first < 32; first += together) {
    std::set<uint32_t> words;
    for (int l = first; l < first + together; ++l)
      if (lanes >> l & 1)
        for (uint32_t at = address[l] / 4; at <= (address[l] + bytes - 1) / 4; ++at) words.insert(at);
    uint64_t in_bank[32] = {}, most = 0;
    for (const uint32_t word : words) most = std::max(most, ++in_bank[word % 32]);
    sum.wavefronts += most;
    sum.least += (words.size() + 31) / 32;
  }
  return sum;
}
inline void note_wavefronts(const char* op, Site site, const Wavefronts& w) {
  const std::lock_guard<std::mutex> lock(journal().mutex);
  Wavefronts& sum = journal().wavefronts[{op, site}];
  sum.accesses += w.accesses, sum.wavefronts += w.wavefronts, sum.least += w.least;
}
inline void gather(const char* op, Site site, uint32_t address, uint32_t bytes) {
  Block& b = *block();
  const Fiber& mine = *b.current;
  Gathered& g = b.gathered[{{op, site}, mine.warp}];
  g.bytes = bytes;
  const unsigned n = g.made[mine.lane]++;
  if (g.all.size() <= n) g.all.resize(n + 1);
  g.all[n].lanes |= 1u << mine.lane;
  g.all[n].address[mine.lane] = address;
}
inline void count_gathered(Block& b) {
  for (const auto& [where, g] : b.gathered)
    for (const Gathered::One& one : g.all)
      note_wavefronts(where.first.first, where.first.second, wavefronts(one.address, one.lanes, g.bytes));
  b.gathered.clear();
}

// ---- lds and sts

inline void shared_load(void* to, uint32_t address, uint32_t bytes, Site site) {
  std::memset(to, 0xff, bytes);
  if (!in_shared(address, bytes, "lds", site)) return;
  note_read(*block()->current, address, bytes, "lds", site);
  if (options().count_banks) gather("lds", site, address, bytes);
  std::memcpy(to, &block()->shared[address - kSmemBase], bytes);
}
inline void shared_store(uint32_t address, const void* from, uint32_t bytes, Site site) {
  if (!in_shared(address, bytes, "sts", site)) return;
  note_write(*block()->current, address, bytes, "sts", site, Write::kPlain);
  if (options().count_banks) gather("sts", site, address, bytes);
  std::memcpy(&block()->shared[address - kSmemBase], from, bytes);
}

}  // namespace emu
