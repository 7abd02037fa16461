// The weighted sum of a query row over its window and the additional keys: one by one, or by pairs of key rows.
#pragma once

#include "context.h"
#include "weighted_sum.h"

namespace natten_core::cpu::NATTEN_ISA {

// What is summed, and room to work.
template <class E>
struct SumSources {
  const E *rows, *additional;  // ring of packed key rows; [key, or pair of keys][padded head_dim]
  const E** pointers;          // [sum_rows]
  E* pairs;                    // weights as pairs
};

// Writes the packed rows of the window of query row r, from the work's first key column on, and returns how many: key
// rows, or pairs of them.
template <class E>
NATTEN_KERNEL int window_rows(const Sizes<E>& s, const TokenSizes<E>& sizes, const Work& w, int r, const E* rows,
                              const E** pointers) {
  const int keys = w.group.y_keys[r], parts = s.paired_rows ? pair_count(keys) : keys;
  const int64_t* slots = w.group.windows + static_cast<int64_t>(r) * s.key_rows;
  for (int z = 0; z < w.group.z_keys; ++z, slots += keys)
    for (int i = 0; i < parts; ++i)
      *pointers++ = rows + slots[s.paired_rows ? pair_end(i, keys) : i] * sizes.row + w.key_column * sizes.padded_dim;
  return w.group.z_keys * parts;
}

// The weights of query row r [key row][slot][lane] and [additional key][lane] as its weighted sum takes them: as they
// are, or in `pairs`.
template <class E>
NATTEN_KERNEL const E* sum_weights(const Sizes<E>& s, const Work& w, int r, const Sum<E>* weights, E* pairs) {
  if constexpr (kPaired<E>) {
    const int keys = s.paired_rows ? w.group.y_keys[r] : 1, step = w.c.slots * kLanes<E>;
    E* out = pairs;
    for (const float* end = weights + w.group.window_rows(r) * step; weights < end; weights += keys * step)
      for (int i = 0; i < pair_count(keys); ++i, out += step)
        narrow_rows(i, keys, [&](int row) { return weights + row * step; }, w.c.slots, out);
    for (int i = 0; i < s.additional_sum; ++i, out += kLanes<E>)
      narrow_rows(i, s.additional, [&](int key) { return weights + key * kLanes<E>; }, 1, out);
    return pairs;
  } else {
    return weights;
  }
}

// out[lane][d] = factor[lane] * the sum of query row r of the work; `weights` as its scores lie.
template <class E>
NATTEN_KERNEL void sum_row(const Sizes<E>& s, const TokenSizes<E>& sizes, const Work& w, int r, const Sum<E>* weights,
                           const SumSources<E>& from, const Sum<E>* factors, Sum<E>* const* out) {
  const int rows = window_rows<E>(s, sizes, w, r, from.rows, from.pointers);
  weighted_sums<E>({sum_weights(s, w, r, weights, from.pairs), from.pointers, factors, out, w.c.offset, w.c.end, rows,
                    w.c.slots, sizes.head_dim, sizes.padded_dim, w.c.is_whole(), from.additional, s.additional_sum},
                   w.c.lanes);
}

}  // namespace natten_core::cpu::NATTEN_ISA
