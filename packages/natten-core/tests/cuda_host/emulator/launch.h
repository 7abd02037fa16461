// Runs the blocks of a grid, spread over CPU threads. Fibers never leave the CPU thread that they began on.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

#include "emulator/block.h"
#include "emulator/global.h"
#include "emulator/shared.h"
#include "emulator/warp.h"

namespace emu {

inline void thread_main() {
  Block& b = *block();
  b.body();
  Fiber& mine = *b.current;
  if (!mine.copies.empty())
    report("copy never waited for", mine.copies.back().site, "thread %u returns while copies are under way",
           mine.thread);
  mine.state = State::kDone;
  b.live--;
  b.warps[mine.warp].live &= ~(1u << mine.lane);
  for (Barrier& barrier : b.barriers)
    if (!barrier.wanted) release_if_complete(barrier);
  run_another();
  std::abort();
}

inline void make_stacks(Block& b, unsigned threads) {
  if (b.stack_count >= threads) return;
  if (b.stacks) munmap(b.stacks, b.stack_count * kStack);
  void* memory =
      mmap(nullptr, threads * kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::runtime_error("no memory for the stacks of a block");
  b.stacks = static_cast<char*>(memory);
  b.stack_count = threads;
  for (unsigned i = 0; i < threads; ++i) mprotect(b.stacks + i * kStack, 4096, PROT_NONE);
}

inline void make_order(Block& b, unsigned seed) {
  const unsigned n = static_cast<unsigned>(b.fibers.size());
  b.order.resize(n), b.place.resize(n);
  for (unsigned i = 0; i < n; ++i) b.order[i] = i;
  if (seed == 1) std::reverse(b.order.begin(), b.order.end());
  uint64_t state = seed + 977ull * b.number;
  for (unsigned i = n; seed > 1 && i > 1; --i) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    std::swap(b.order[i - 1], b.order[(state >> 33) % i]);
  }
  for (unsigned i = 0; i < n; ++i) b.place[b.order[i]] = i;
}

inline void run_block(Block& b, unsigned threads, uint32_t shared_bytes) {
  const unsigned warps = threads / 32;
  make_stacks(b, threads);
  b.live = threads;
  b.current = nullptr;
  b.dead = false;
  b.shared.assign(shared_bytes, 0xff);
  b.cells.assign((shared_bytes + kGranule - 1) / kGranule, Cell{});
  b.reads.assign(b.cells.size() * warps, 0);
  b.warps.resize(warps);
  for (unsigned i = 0; i < warps; ++i) {
    b.warps[i].arrived = 0, b.warps[i].live = ~0u;
    b.warps[i].clock.assign(warps, 0);
    b.warps[i].clock[i] = 1;
  }
  for (Barrier& barrier : b.barriers) {
    barrier.arrived = barrier.wanted = 0;
    barrier.waiting.clear();
    barrier.clock.assign(warps, 0);
  }
  b.mbarriers.clear();
  b.fibers.resize(threads);
  make_order(b, options().seed);
  for (unsigned i = 0; i < threads; ++i) {
    Fiber& f = b.fibers[i];
    f.thread = i, f.warp = i / 32, f.lane = i % 32;
    f.state = State::kReady;
    f.copies.clear(), f.group_end.clear();
    f.groups_done = 0;
    char* stack = b.stacks + i * kStack + 4096;
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(stack, kStack - 4096);  // abandoned fibers leave poisoned frames
#endif
    // Not all at one offset from a page, or the hot frames of all stacks would share a few sets of the cache.
    f.context.prepare(stack, kStack - 4096 - i % 64 * 448, thread_main);
  }
  resume(b.outside, next_ready());
  if (!b.dead)
    for (const Fiber& f : b.fibers)
      if (f.state != State::kDone) report("deadlock", f.site, "thread %u waits at %s", f.thread, f.op);
  for (const auto& [address, m] : b.mbarriers)
    if (!m.copies.empty())
      report("copy never waited for", m.copies.back().second.site, "the mbarrier at %u lacks %u arrivals", address,
             m.pending);
  count_gathered(b);
  stats().blocks++;
}

// Blocks are kept from launch to launch: making stacks takes longer than a small kernel.
struct Pool {
  std::mutex mutex;
  std::vector<std::unique_ptr<Block>> free;
  std::unique_ptr<Block> take() {
    const std::lock_guard<std::mutex> lock(mutex);
    if (free.empty()) return std::make_unique<Block>();
    std::unique_ptr<Block> b = std::move(free.back());
    free.pop_back();
    return b;
  }
  void give(std::unique_ptr<Block> b) {
    const std::lock_guard<std::mutex> lock(mutex);
    free.push_back(std::move(b));
  }
};
inline Pool& pool() {
  static Pool p;
  return p;
}

template <class Params>
void launch(void (*kernel)(Params), emu_dim3 grid, unsigned threads, uint32_t shared_bytes, const Params& params) {
  const uint64_t total = uint64_t{grid.x} * grid.y * grid.z;
  if (total == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
    throw std::runtime_error("launch: a grid that CUDA refuses");
  if (threads == 0 || threads > 1024 || threads % 32) throw std::runtime_error("launch: threads must fill warps");
  if (shared_bytes > 227 * 1024) throw std::runtime_error("launch: more shared memory than any device has");
  global().launch++;
  std::atomic<uint64_t> next{0};
  const auto work = [&] {
    std::unique_ptr<Block> b = pool().take();
    block() = b.get();
    gridDim = grid;
    blockDim = {threads, 1, 1};
    b->body = [&] { kernel(params); };
    for (uint64_t i; (i = next++) < total;) {
      const unsigned n = static_cast<unsigned>(options().seed & 1 ? total - 1 - i : i);
      b->number = n;
      blockIdx = {n % grid.x, n / grid.x % grid.y, n / grid.x / grid.y};
      run_block(*b, threads, shared_bytes);
    }
    stats().switches += b->switches;
    b->switches = 0;
    block() = nullptr;
    pool().give(std::move(b));
  };
  std::vector<std::thread> others;
  for (uint64_t i = 1; i < options().threads && i < total; ++i) others.emplace_back(work);
  work();
  for (std::thread& t : others) t.join();
}

}  // namespace emu
