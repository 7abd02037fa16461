// What the queries at hand see: the rows of their windows, and the columns of each query in them.
#pragma once

#include "operand.h"

namespace natten_core::cpu::NATTEN_ISA::general {

// The key rows of a window, the same for all queries at hand.
struct WindowRows {
  int count = 0;
  int64_t* slot = nullptr;  // [count] in the ring
  int64_t* bias = nullptr;  // [count] in the bias table, from a query's own place in it
  int32_t* entry = nullptr; // [count] place of the row in a whole window, in rows
  int64_t additional = 0;
};

struct Query {
  int64_t z = 0, y = 0, x = 0;   // position
  int64_t head = 0;              // among those that read the item's head
  int64_t begin = 0, end = 0;    // columns of its window, from the first packed one
  int64_t bias = 0;              // its place in the bias table
};

// One query or two, neighbours in the order in which windows change least.
struct Pair {
  Query query[2];
  int count = 0;
  int vectors = 0;  // that hold the scores of one key row; additional keys follow those of the last row
  bool same_begin() const { return query[0].begin == query[1].begin; }
};

// Calls body(first query, one past the last, columns from, to) for runs of columns that the same queries see.
template <int Count, class Body>
NATTEN_KERNEL void for_runs(const Pair& pair, Body body) {
  const Query &a = pair.query[0], &b = pair.query[Count - 1];
  const int64_t begin = max_of(a.begin, b.begin), end = min_of(a.end, b.end);
  if constexpr (Count == 1) {
    body(Constant<0>{}, Constant<1>{}, begin, end);
  } else if (begin >= end) {
    body(Constant<0>{}, Constant<1>{}, a.begin, a.end);
    body(Constant<1>{}, Constant<2>{}, b.begin, b.end);
  } else {
    body(Constant<0>{}, Constant<1>{}, a.begin, begin);
    body(Constant<1>{}, Constant<2>{}, b.begin, begin);
    body(Constant<0>{}, Constant<2>{}, begin, end);
    body(Constant<0>{}, Constant<1>{}, end, a.end);
    body(Constant<1>{}, Constant<2>{}, end, b.end);
  }
}

}  // namespace natten_core::cpu::NATTEN_ISA::general
