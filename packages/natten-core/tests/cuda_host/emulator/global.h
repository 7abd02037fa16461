// Global memory: only buffers that were registered may be touched, and no two threads may meet there unordered.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "emulator/block.h"

namespace emu {

// kWrite: what is there at first must not be read. kUnchecked: whatever is done is right.
enum class Access { kRead, kWrite, kReadWrite, kUnchecked };

struct Buffer {
  uintptr_t begin, end;
  Access access;
  std::unique_ptr<std::atomic<uint64_t>[]> writes;  // by granule: launch, block, thread and time of the last write
};
struct Global {
  std::vector<Buffer> buffers;
  uint64_t launch = 0;

  void clear() {
    buffers.clear();
    launch = 0;
  }
  void add(const void* data, size_t bytes, Access access) {
    const uintptr_t begin = reinterpret_cast<uintptr_t>(data);
    Buffer b{begin, begin + bytes, access, nullptr};
    if (access != Access::kRead) b.writes.reset(new std::atomic<uint64_t>[bytes / kGranule + 1]());
    buffers.push_back(std::move(b));
  }
  // For tests that have nothing to do with accesses.
  void add_all() { buffers.push_back({0, ~uintptr_t{0}, Access::kUnchecked, nullptr}); }
};
inline Global& global() {
  static Global g;
  return g;
}

// Of 64 bits: 12 of the launch, 24 of the block, 10 of the thread, 18 of the time.
inline uint64_t write_record(unsigned thread, uint32_t time) {
  return (global().launch & 0xfff) << 52 | uint64_t{block()->number & 0xffffffu} << 28 |
         uint64_t{thread & 0x3ffu} << 18 | (time & 0x3ffff);
}

// Between blocks of one launch nothing is ordered.
inline bool ordered_after(const Fiber& mine, uint64_t record) {
  if (record >> 52 != (global().launch & 0xfff)) return true;
  return (record >> 28 & 0xffffff) == (block()->number & 0xffffff) &&
         before_now(mine, record >> 18 & 0x3ff, record & 0x3ffff);
}

inline bool touch_global(const void* p, uint32_t bytes, bool write, const char* op, Site site) {
  const Fiber& mine = *block()->current;
  const uintptr_t at = reinterpret_cast<uintptr_t>(p);
  if (at % bytes) report("misaligned global access", site, "%s of %u bytes by thread %u", op, bytes, mine.thread);
  for (Buffer& b : global().buffers) {
    if (at < b.begin || at + bytes > b.end) continue;
    if (write && b.access == Access::kRead) continue;
    if (b.access == Access::kRead || b.access == Access::kUnchecked) return true;
    const uint64_t record = write_record(mine.thread, block()->warp().clock[mine.warp]);
    for (uintptr_t g = (at - b.begin) / kGranule; g <= (at + bytes - 1 - b.begin) / kGranule; ++g) {
      const uint64_t last = b.writes[g].load(std::memory_order_relaxed);
      if (last != 0 && !ordered_after(mine, last))
        report("race in global memory", site, "%s by thread %u of block %u, written by thread %u of block %u", op,
               mine.thread, block()->number, static_cast<unsigned>(last >> 18 & 0x3ff),
               static_cast<unsigned>(last >> 28 & 0xffffff));
      if (write)
        b.writes[g].store(record, std::memory_order_relaxed);
      else if (last == 0 && b.access == Access::kWrite)
        report("read of uninitialised global memory", site, "%s by thread %u of block %u", op, mine.thread,
               block()->number);
    }
    return true;
  }
  report("global memory out of bounds", site, "%s of %u bytes by thread %u of block %u", op, bytes, mine.thread,
         block()->number);
  return false;
}

inline void global_load(void* to, const void* p, uint32_t bytes, Site site) {
  std::memset(to, 0xff, bytes);
  if (touch_global(p, bytes, false, "ldg", site)) std::memcpy(to, p, bytes);
}
inline void global_store(void* p, const void* from, uint32_t bytes, Site site) {
  if (touch_global(p, bytes, true, "stg", site)) std::memcpy(p, from, bytes);
}

}  // namespace emu
