// A block of threads: one fiber each, shared memory with a record of who touched what, barriers.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <vector>

#include "emulator/fiber.h"
#include "emulator/report.h"

struct emu_uint3 {
  unsigned x = 0, y = 0, z = 0;
};
struct emu_dim3 {
  unsigned x = 1, y = 1, z = 1;
};
inline thread_local emu_uint3 threadIdx, blockIdx;
inline thread_local emu_dim3 blockDim, gridDim;

namespace emu {

constexpr uint32_t kSmemBase = 1024;  // not 0, which would hide code that assumes it; as aligned as on the device
constexpr uint32_t kGranule = 2;      // bytes that a record of accesses covers
constexpr size_t kStack = 128 << 10;

enum class State : uint8_t { kReady, kWarp, kBarrier, kDone };

struct Copy {
  uint32_t target;
  const void* source;
  uint32_t bytes, source_bytes;
  Site site;
};

struct Fiber {
  Context context;
  unsigned thread = 0, warp = 0, lane = 0;
  State state = State::kReady;
  const char* op = "";
  Site site;
  std::vector<Copy> copies;        // of cp.async
  std::vector<uint32_t> group_end;  // in copies
  size_t groups_done = 0;
};

// Clocks are per warp: all lanes share what barriers have told their warp about the others.
struct Warp {
  uint32_t arrived = 0, wanted = 0, live = ~0u;
  void* operands[32];  // of the collective that the lanes gather for, on their own stacks
  const char* op = "";
  Site site;
  std::vector<uint32_t> clock;  // by warp; its own entry is its time
};

struct Barrier {
  unsigned wanted = 0, arrived = 0;
  std::vector<uint32_t> clock;
  std::vector<unsigned> waiting;
};

struct Mbarrier {
  unsigned count = 0, pending = 0;
  uint64_t phase = 0;                             // how many are over
  std::vector<uint32_t> clock, last_clock;        // of what arrived in this phase, and before its end
  std::vector<std::pair<unsigned, Copy>> copies;  // that this phase waits for, and the threads that issued them
  std::vector<unsigned> waiting;
};

// The last write to a granule of shared memory.
struct Cell {
  uint32_t time = 0;
  uint16_t thread = 0xffff;
  bool written = false, in_flight = false;
};

// Accesses of one place in the code by one warp, lane by lane, until all lanes have made theirs.
struct Gathered {
  struct One {
    uint32_t lanes = 0, address[32];
  };
  uint32_t bytes = 0;
  unsigned made[32] = {};
  std::vector<One> all;
};

struct Block {
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  Barrier barriers[16];
  std::map<uint32_t, Mbarrier> mbarriers;  // by address
  std::vector<uint8_t> shared;
  std::vector<Cell> cells;
  std::vector<uint32_t> reads;  // [granule][warp]: time of the last read << 6 | lane, or 32 for several lanes; 0: none
  std::vector<unsigned> order, place;
  std::map<std::pair<std::pair<const char*, Site>, unsigned>, Gathered> gathered;
  std::function<void()> body;
  Fiber* current = nullptr;
  Context outside;
  unsigned live = 0, number = 0;
  uint64_t switches = 0;
  bool dead = false;
  char* stacks = nullptr;
  size_t stack_count = 0;

  Block() = default;
  Block(const Block&) = delete;
  ~Block() {
    if (stacks) munmap(stacks, stack_count * kStack);
  }
  Warp& warp() { return warps[current->warp]; }
};
inline Block*& block() {
  thread_local Block* b = nullptr;
  return b;
}

// ---- who runs

inline void resume(Context& from, Fiber* to) {
  Block& b = *block();
  b.current = to;
  b.switches++;
  threadIdx.x = to->thread;
  swap(from, to->context);
}
inline Fiber* next_ready() {
  Block& b = *block();
  const unsigned n = static_cast<unsigned>(b.fibers.size());
  const unsigned from = b.current ? b.place[b.current->thread] : n - 1;
  for (unsigned i = 1; i <= n; ++i) {
    Fiber& f = b.fibers[b.order[from + i < n ? from + i : from + i - n]];
    if (f.state == State::kReady) return &f;
  }
  return nullptr;
}
// Leaves the current fiber, which is not ready. When nobody is, all are done or there is a deadlock.
inline void run_another() {
  Fiber* mine = block()->current;
  if (Fiber* next = next_ready())
    resume(mine->context, next);
  else
    swap(mine->context, block()->outside);
}
inline void abandon_block() {
  block()->dead = true;
  swap(block()->current->context, block()->outside);
}

// ---- what happened before what

// Whether what `thread` did at `time` of its warp is known to have happened before now.
inline bool before_now(const Fiber& mine, unsigned thread, uint32_t time) {
  return thread == mine.thread || time < block()->warps[mine.warp].clock[thread >> 5];
}
inline void learn(std::vector<uint32_t>& clock, const std::vector<uint32_t>& other) {
  for (size_t i = 0; i < clock.size(); ++i) clock[i] = clock[i] < other[i] ? other[i] : clock[i];
}

}  // namespace emu
