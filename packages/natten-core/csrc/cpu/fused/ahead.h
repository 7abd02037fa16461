// Memory asked for ahead of its use. Packing waits for memory and nothing else, so while a block of queries is
// computed, the tokens that the next one reads and writes are prefetched, a few at a time: all at once they would queue
// for the few misses that a core can have under way, and hold up everything behind them.
#pragma once

#include "../plan.h"
#include "natten_core/neighborhood.h"
#include "simd.h"

namespace natten_core::cpu::NATTEN_ISA {

class Ahead {
 public:
  explicit Ahead(const Plan& plan) : coordinate_(plan.coordinate.data()) {}

  // Adds the tokens, of `dim` elements, of columns [begin, end) of a row. What finds no place is not prefetched.
  template <class S>
  NATTEN_MEMBER void add(const S* row, int64_t dim, int64_t stride, int64_t begin, int64_t end) {
    constexpr int64_t size = sizeof(S);
    if (count_ < kMost && begin < end)
      rows_[count_++] = {reinterpret_cast<const char*>(row), dim * size, stride * size, begin, end};
  }

  // All that was added will be asked for in this many portions.
  NATTEN_MEMBER void cut(int portions) { portion_ = (count_ + portions - 1) / portions; }

  NATTEN_MEMBER void portion() {
    const int end = done_ + portion_ < count_ ? done_ + portion_ : count_;
    for (; done_ < end; ++done_) {
      const Row& row = rows_[done_];
      for (int64_t column = row.begin; column < row.end; ++column) {
        const char* token = row.memory + coordinate_[column] * row.stride;
        for (int64_t byte = 0; byte < row.token; byte += 64) __builtin_prefetch(token + byte, 0, kLevel);
      }
    }
  }

  NATTEN_MEMBER void clear() { count_ = done_ = 0; }

 private:
  static constexpr int kMost = 64;
  // Into the second-level cache: the first is full of what is computed with, and on Zen its queue of misses is what
  // everything would wait for.
  static constexpr int kLevel = 2;
  struct Row {
    const char* memory;
    int64_t token, stride, begin, end;  // bytes, bytes, columns
  };
  const int32_t* coordinate_;
  int count_ = 0, done_ = 0, portion_ = 0;
  Row rows_[kMost];
};

}  // namespace natten_core::cpu::NATTEN_ISA
