// Weights of a row of queries, on their way between memory, where a query's slots lie side by side, and the kernels'
// [slot][lane]: transposed in registers, a vector of slots at a time. In memory every window is whole; the kernels have
// the key rows and slots alone that a block sees, which are a whole window's first ones along each axis.
#pragma once

#include "../fused/context.h"

namespace natten_core::cpu::NATTEN_ISA::two_stage {

// Calls body(slot) for vectors of slots. The last one overlaps the one before it rather than be partial.
template <class T, class Body>
NATTEN_KERNEL void for_slot_vectors(int window, Body body) {
  for (int slot = 0; slot + kLanes<T> < window; slot += kLanes<T>) body(slot);
  body(static_cast<int>(max_of(window - kLanes<T>, 0)));
}

// Calls body(place among the slots at hand, or -1, place in the whole window) for every slot of it, in order.
template <class E, class Body>
NATTEN_KERNEL void for_whole_window(const Sizes<E>& s, const Work& w, int r, bool forwards, Body body) {
  const int64_t* kernel = s.p.kernel;
  const int additional = s.window - s.additional;  // where those of additional keys begin
  for (int i = 0; i < s.window; ++i) {
    const int whole = forwards ? i : s.window - 1 - i;
    if (whole >= additional) {
      body(w.window(r) + whole - additional, whole);
      continue;
    }
    const int row = whole / s.slots, j = whole % s.slots;
    const int z = row / static_cast<int>(kernel[kY]), y = row % static_cast<int>(kernel[kY]);
    const bool seen = z < w.group.z_keys && y < w.group.y_keys[r] && j < w.c.slots;
    body(seen ? (z * w.group.y_keys[r] + y) * w.c.slots + j : -1, whole);
  }
}

template <class E>
NATTEN_KERNEL bool is_whole(const Sizes<E>& s, const Work& w, int r) {
  return w.window(r) + s.additional == s.window;
}

// weights[slot][lane] of the work's query row r; lanes past the last query repeat it.
template <class E, class S, class T = Sum<E>>
NATTEN_KERNEL void load_slots(const Sizes<E>& s, const Map& map, const Work& w, int r, const Tensor& t, T* weights) {
  constexpr int n = kLanes<T>;
  const S* queries[n];
  lane_tokens<E>(s.plan, map.row<S>(t, w.group.z, w.group.y + r), t.axis[kX], w.column, w.column + w.c.lanes - 1,
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
  if (is_whole(s, w, r)) return;
  for_whole_window(s, w, r, true, [&](int at, int whole) {
    if (at >= 0) store<T>(weights + at * n, load<T>(weights + whole * n));
  });
}

// The reverse, with `missing` in the slots that no lane of the block has; what pairs have given, times `factor`.
// Scratch memory goes on for a vector of slots behind the last row's.
template <class E, class S, class T = Sum<E>>
NATTEN_KERNEL void store_slots(const Sizes<E>& s, const Map& map, const Work& w, int r, T* weights, T factor, T missing,
                               const Tensor& t) {
  constexpr int n = kLanes<T>;
  if (!is_whole(s, w, r))  // in place, as no slot comes before its place in the whole window
    for_whole_window(s, w, r, false, [&](int at, int whole) {
      store<T>(weights + whole * n, at >= 0 ? load<T>(weights + at * n) : broadcast<T>(missing));
    });
  S* row = map.row<S>(t, w.group.z, w.group.y + r);
  for_slot_vectors<T>(s.window, [&](int slot) __attribute__((always_inline)) {
    Vec<T> v[n];
    NATTEN_UNROLL
    for (int i = 0; i < n; ++i) v[i] = load<T>(weights + (slot + i) * n), v[i] = kPaired<E> ? v[i] * factor : v[i];
    transpose_step<T, n / 2>(v);
    NATTEN_UNROLL
    for (int lane = 0; lane < n; ++lane)
      if (lane < w.c.lanes)
        store_dims<T>(row + s.plan.coordinate[w.column + lane] * t.axis[kX], slot, s.window, v[lane]);
  });
}

}  // namespace natten_core::cpu::NATTEN_ISA::two_stage
