// Weights of a row of queries, on their way between memory, where a query's slots lie side by side, and the kernels'
// [slot][lane]: transposed in registers, a vector of slots at a time.
#pragma once

#include "../fused/context.h"

namespace natten_core::cpu::NATTEN_ISA::two_stage {

// Calls body(slot) for vectors of slots. The last one overlaps the one before it rather than be partial.
template <class T, class Body>
NATTEN_KERNEL void for_slot_vectors(int window, Body body) {
  for (int slot = 0; slot + kLanes<T> < window; slot += kLanes<T>) body(slot);
  body(static_cast<int>(max_of(window - kLanes<T>, 0)));
}

// weights[slot][lane] of the work's query row r; lanes past the last query repeat it.
template <class T, class S>
NATTEN_KERNEL void load_slots(const Sizes<T>& s, const Map& map, const Work& w, int r, const Tensor& t, T* weights) {
  constexpr int n = kLanes<T>;
  const S* queries[n];
  lane_tokens<T>(s.plan, map.row<S>(t, w.group.z, w.group.y + r), t.axis[kX], w.column, w.column + w.c.lanes - 1,
                 queries);
  for_slot_vectors<T>(s.window, [&](int slot) __attribute__((always_inline)) {
    Vec<T> v[n];
    NATTEN_UNROLL
    for (int lane = 0; lane < n; ++lane) v[lane] = load_dims<T>(queries[lane], slot, s.window);
    transpose_step<T, n / 2>(v);
    NATTEN_UNROLL
    for (int i = 0; i < n; ++i)
      if (slot + i < s.window) store<T>(weights + (slot + i) * n, v[i]);
  });
}

// The reverse. Scratch memory goes on for a vector of slots behind the last row's.
template <class T, class S>
NATTEN_KERNEL void store_slots(const Sizes<T>& s, const Map& map, const Work& w, int r, const T* weights,
                               const Tensor& t) {
  constexpr int n = kLanes<T>;
  S* row = map.row<S>(t, w.group.z, w.group.y + r);
  for_slot_vectors<T>(s.window, [&](int slot) __attribute__((always_inline)) {
    Vec<T> v[n];
    NATTEN_UNROLL
    for (int i = 0; i < n; ++i) v[i] = load<T>(weights + (slot + i) * n);
    transpose_step<T, n / 2>(v);
    NATTEN_UNROLL
    for (int lane = 0; lane < n; ++lane)
      if (lane < w.c.lanes)
        store_dims<T>(row + s.plan.coordinate[w.column + lane] * t.axis[kX], slot, s.window, v[lane]);
  });
}

}  // namespace natten_core::cpu::NATTEN_ISA::two_stage
