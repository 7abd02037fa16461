// Memory and threads of a call: chunks run on OpenMP threads, each with a piece of scratch memory.
#pragma once

#include <cstdlib>
#include <memory>
#include <new>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "natten_core/neighborhood.h"

namespace natten_core::cpu {

struct Free {
  void operator()(void* p) const { std::free(p); }
};
using Memory = std::unique_ptr<char, Free>;

// At least `bytes`, on a 64-byte boundary.
inline Memory allocate(int64_t bytes) {
  void* p = std::aligned_alloc(64, static_cast<size_t>(ceil_div(max_of(bytes, 1), 64) * 64));
  if (p == nullptr) throw std::bad_alloc();
  return Memory(static_cast<char*>(p));
}

// Scratch that the calling thread keeps from call to call, unless it is large: small problems should not pay for fresh
// pages each time.
inline char* scratch_memory(int64_t bytes) {
  constexpr int64_t kKept = 16 << 20;
  thread_local Memory memory;
  thread_local int64_t size = 0;
  if (bytes > size || size > kKept) {
    memory.reset();
    size = 0;
    memory = allocate(bytes);
    size = bytes;
  }
  return memory.get();
}

// Runs body(chunk, scratch of its thread) for chunks [begin, end).
template <class Body>
void run(int64_t begin, int64_t end, int threads, char* scratch, int64_t scratch_bytes, Body body) {
#if defined(_OPENMP)
  const int team = static_cast<int>(max_of(1, min_of(threads, end - begin)));
#pragma omp parallel num_threads(team) if (team > 1)
  {
    char* mine = scratch + omp_get_thread_num() * scratch_bytes;
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = begin; i < end; ++i) body(i, mine);
  }
#else
  (void)threads, (void)scratch_bytes;
  for (int64_t i = begin; i < end; ++i) body(i, scratch);
#endif
}

}  // namespace natten_core::cpu
