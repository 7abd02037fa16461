// How a problem is cut into work for the general kernels: decided once per call, from the problem alone, never from
// the number of threads, so that every result is bit-equal for any thread count.
#pragma once

#include <cstdint>
#include <vector>

#include "natten_core/problem.h"

namespace natten_core::cpu {

// Queries [begin, end) of one (batch entry, head of key and value, dilation group per axis), in positions of the group,
// for all heads of query that read this head. At most one axis is cut, the first that is longer than 1 ("bands").
struct GeneralItem {
  int32_t batch, head;
  int32_t group[kRank], begin[kRank], end[kRank];
  // Key positions along the banded axis that an item of the other phase has written before (add), else store.
  int32_t add_below, add_from;
};

// Items [item0, item1) that one thread works through in order, all of one batch entry and head.
struct GeneralChunk {
  int32_t item0, item1;
};

struct GeneralPlan {
  Axis band_axis = kX;
  std::vector<GeneralItem> items;
  std::vector<GeneralChunk> chunks;  // items of phase 0, then of phase 1
  int64_t phase1 = 0;                // first chunk of phase 1
  int64_t tile = 1;                  // queries along x that are swept over the rows together
  int64_t max_columns = 0;           // most key columns that a tile sees
  int64_t ring_rows = 0;             // most key rows that must be held packed at a time
};

// `exclusive`: items of one phase must not share keys (the backward passes write to them).
GeneralPlan make_general_plan(const Problem& problem, bool exclusive);

}  // namespace natten_core::cpu
