// How much of everything there is in a pass, and one thread's scratch memory.
#pragma once

#include "../plan.h"
#include "math.h"
#include "natten_core/neighborhood.h"
#include "pairs.h"
#include "scores.h"

namespace natten_core::cpu::NATTEN_ISA {

constexpr int64_t round_up(int64_t x, int64_t multiple) { return (x + multiple - 1) / multiple * multiple; }

// At least `elements`, and an odd number of cache lines: rows of an even number would share few cache sets.
template <class T>
NATTEN_KERNEL int64_t odd_lines(int64_t elements) {
  constexpr int64_t line = 64 / static_cast<int64_t>(sizeof(T));
  return (ceil_div(elements, line) | 1) * line;
}

// Columns before and after a row's own in its planes, for the lanes of a vector that are not used.
template <class T>
constexpr int64_t kMargin = kLanes<T>;

// How packed tokens of one head_dim lie: those of keys and queries, or those of values and outputs.
template <class E>
struct TokenSizes {
  int head_dim, padded_dim, planes;
  int64_t plane, row;  // elements of one key row packed as planes and as rows

  TokenSizes(int64_t dim, int64_t columns, int64_t max_columns)
      : head_dim(static_cast<int>(dim)),
        padded_dim(static_cast<int>(round_up(dim, kLanes<Sum<E>>))),
        planes(plane_count<E>(head_dim)),
        plane(odd_lines<Sum<E>>(columns * planes)),
        row(odd_lines<Sum<E>>(max_columns * padded_dim)) {}

  // Of a block: all query rows as planes, and one of them as rows.
  int64_t block_planes() const { return static_cast<int64_t>(kScoreRows) * planes * kLanes<E>; }
  int64_t block_row() const { return static_cast<int64_t>(kLanes<E>) * padded_dim; }
};

template <class E>
struct Sizes {
  using T = Sum<E>;
  const Problem& p;
  const Plan& plan;
  int additional;  // keys beside the window
  bool paired_rows;  // pairs in sums are of key rows; else of one row and nothing
  // Of a whole window: slots of one key row, key rows, and slots in all, those of additional keys among them. That of a
  // query may have fewer.
  int slots, key_rows, window;
  // Of its weighted sum: key rows, or pairs of them; additional keys, or pairs of them.
  int sum_rows, additional_sum;
  int64_t columns;  // of one plane of a key row
  TokenSizes<E> key, value;
  int64_t bias_rows, bias_class;  // bias table: [class][bias row (2Kz-1)(2Ky-1)][slot][lane]
  int64_t bias_columns;  // 2Kx-1
  int64_t bias_head;  // elements of one head's table

  Sizes(const Problem& problem, const Plan& work)
      : p(problem),
        plan(work),
        additional(static_cast<int>(problem.additional)),
        paired_rows(kPaired<E> && has_row_pairs(problem)),
        slots(static_cast<int>(problem.kernel[kX])),
        key_rows(static_cast<int>(problem.kernel[kZ] * problem.kernel[kY])),
        window(slots * key_rows + additional),
        sum_rows(paired_rows ? static_cast<int>(problem.kernel[kZ]) * pair_count(static_cast<int>(problem.kernel[kY]))
                             : key_rows),
        additional_sum(kPaired<E> ? pair_count(additional) : additional),
        columns(odd_lines<T>(kMargin<T> + round_up(work.max_columns, kLanes<T>) + kMargin<T>)),
        key(problem.head_dim, columns, work.max_columns),
        value(problem.head_dim_v, columns, work.max_columns),
        bias_rows((2 * problem.kernel[kZ] - 1) * (2 * problem.kernel[kY] - 1)),
        bias_class(bias_rows * slots * kLanes<T>),
        bias_columns(2 * problem.kernel[kX] - 1),
        bias_head(bias_class * static_cast<int64_t>(work.classes.size())) {}

  // Scores are in units of log2: the queries, or if they are pairs the scores themselves, are multiplied by this.
  T unit() const { return static_cast<T>(p.scale * kLog2E); }
  T bias_factor() const { return static_cast<T>(kPaired<E> ? 1 / p.scale : kLog2E); }
  // What turns a score into a logit.
  T logit() const { return static_cast<T>(kPaired<E> ? p.scale : kLn2); }

  int64_t bias_row(int64_t z_relative, int64_t y_relative) const {
    return (z_relative * (2 * p.kernel[kY] - 1) + y_relative) * slots * kLanes<T>;
  }
  int64_t block_scores() const { return static_cast<int64_t>(kScoreRows) * window * kLanes<T>; }
  // Weights as pairs, those of a query row or of all query rows at one key row or at the additional keys; none where
  // they are not.
  int64_t pairs() const {
    const int64_t row = static_cast<int64_t>(sum_rows) * slots + additional_sum;
    return kPaired<E> ? max_of(row, static_cast<int64_t>(kScoreRows) * max_of(slots, additional)) * kLanes<T> : 0;
  }
  int64_t zeros() const { return static_cast<int64_t>(max_of(slots, additional)) * kLanes<T>; }
};

// Hands out pieces of one allocation, each on a 64-byte boundary. With a null base it only counts.
template <class T>
struct Arena {
  T* base;
  int64_t used = 0;
  T* take(int64_t elements) {
    T* piece = base ? base + used : nullptr;
    used += round_up(elements, 64 / static_cast<int64_t>(sizeof(T)));
    return piece;
  }
  template <class U>
  U* take_as(int64_t count) {
    return reinterpret_cast<U*>(take(ceil_div(count * static_cast<int64_t>(sizeof(U)), sizeof(T))));
  }
};

}  // namespace natten_core::cpu::NATTEN_ISA
