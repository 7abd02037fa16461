// The rows of the relative positional bias table that a walk along x meets.
//
// The entry of key position k and query position p is k - p + K - 1. From one step of a walk to the next, every token
// of a tile gets the entry that its neighbour just had: only the first token's is loaded, or is new.
#pragma once

#include "cuda/simt/place.h"

namespace natten_core::cuda::simt {

struct TableShape {
  int kernel[kRank], size[kRank];
  DEV_FN explicit TableShape(const Shape& shape) {
    SIMT_UNROLL
    for (int axis = 0; axis < kRank; ++axis) {
      kernel[axis] = shape.kernel[axis];
      size[axis] = 2 * kernel[axis] - 1;
    }
  }
  DEV_FN int entries() const { return size[kZ] * size[kY] * size[kX]; }
  // Of the row where keys are dz and dy ahead of their queries.
  DEV_FN int row(int dz, int dy) const { return ((dz + kernel[kZ] - 1) * size[kY] + dy + kernel[kY] - 1) * size[kX]; }
};

// Step: 1 for a walk over the keys that a tile of queries sees, -1 for one over the queries that see a tile of keys.
template <class A, int Tokens, int Step>
struct BiasRow {
  const A* row = nullptr;  // null: no bias
  int size = 0, entry = 0;
  A at[Tokens];

  // `first`: entry of the first token at the walk's first step.
  DEV_FN void start(const A* row_, int size_, int first) {
    row = row_, size = size_, entry = first;
    SIMT_UNROLL
    for (int i = 0; i < Tokens; ++i) at[i] = i + 1 < Tokens ? load(first - Step * (i + 1)) : A(0);
  }
  DEV_FN void advance() {
    if (row == nullptr) return;
    SIMT_UNROLL
    for (int i = Tokens - 1; i > 0; --i) at[i] = at[i - 1];
    at[0] = load(entry);
    entry += Step;
  }
  DEV_FN A load(int i) const {
    return row != nullptr && static_cast<unsigned>(i) < static_cast<unsigned>(size) ? dev::ldg(row + i) : A(0);
  }
};

// A private table that one lane adds to, in shared or in global memory.
template <class A>
struct PrivateTable {
  uint32_t shared = 0;
  A* global = nullptr;

  DEV_FN void add(int entry, A value) const {
    if (global != nullptr) {
      dev::stg(global + entry, dev::ldg(global + entry) + value);
    } else {
      const uint32_t address = shared + static_cast<uint32_t>(entry) * sizeof(A);
      dev::sts(address, dev::lds<A>(address) + value);
    }
  }
  DEV_FN void set(int entry, A value) const {
    if (global != nullptr)
      dev::stg(global + entry, value);
    else
      dev::sts(shared + static_cast<uint32_t>(entry) * static_cast<uint32_t>(sizeof(A)), value);
  }
};

// Sums what a walk over keys adds to a row of the table, until an entry gets nothing more.
template <class A, int Tokens>
struct GradientRow {
  int row = 0, size = 0, entry = 0;  // entry: of the first token at the next step; size 0: the row is not summed
  A sum[Tokens];

  DEV_FN void start(int row_, int size_, int first) {
    row = row_, size = size_, entry = first;
    SIMT_UNROLL
    for (int i = 0; i < Tokens; ++i) sum[i] = 0;
  }
  DEV_FN void advance(const PrivateTable<A>& table, const A (&gradient)[Tokens]) {
    emit(table, entry - (Tokens - 1), sum[Tokens - 1] + gradient[Tokens - 1]);
    SIMT_UNROLL
    for (int i = Tokens - 1; i > 0; --i) sum[i] = sum[i - 1] + gradient[i - 1];
    ++entry;
  }
  DEV_FN void finish(const PrivateTable<A>& table) {
    SIMT_UNROLL
    for (int i = Tokens - 1; i > 0; --i) emit(table, entry - i, sum[i]);
  }
  DEV_FN void emit(const PrivateTable<A>& table, int at, A value) const {
    if (static_cast<unsigned>(at) < static_cast<unsigned>(size)) table.add(row + at, value);
  }
};

}  // namespace natten_core::cuda::simt
