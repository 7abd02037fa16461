// Keys or values of one item, packed: a ring of key rows, each as planes [dim][column] for dot products with a query
// (lanes are keys) and as rows [column][padded dim] for weighted sums (lanes are dims), and the gradients of the same.
// The additional ones lie beside the ring, in the same two forms.
#pragma once

#include "../fused/context.h"

namespace natten_core::cpu::NATTEN_ISA::general {

enum Need { kPlanes = 1, kRows = 2, kGrads = 4 };

template <class T>
struct Operand {
  int dim = 0, padded = 0;
  T *planes = nullptr, *rows = nullptr, *grads = nullptr;  // rings of `plane` and `row` elements; null if not needed
  T *extra_planes = nullptr, *extra_rows = nullptr, *extra_grads = nullptr;
  int64_t columns = 0, extra_columns = 0;  // from one dim to the next in planes
  int64_t plane = 0, row = 0, extra = 0;   // extra: elements of extra_rows

  Operand(Arena<T>& arena, int64_t head_dim, int64_t max_columns, int64_t ring_rows, int64_t additional, int needs) {
    dim = static_cast<int>(head_dim), padded = static_cast<int>(round_up(head_dim, kLanes<T>));
    // The last vectors of a window may reach past the last column.
    columns = odd_lines<T>(max_columns + 2 * kLanes<T>), plane = odd_lines<T>(columns * dim);
    row = odd_lines<T>(max_columns * padded);
    extra_columns = odd_lines<T>(additional + kLanes<T>), extra = additional * padded;
    if (needs & kPlanes) planes = arena.take(ring_rows * plane), extra_planes = arena.take(extra_columns * dim);
    if (needs & kRows) rows = arena.take(ring_rows * row), extra_rows = arena.take(extra);
    if (needs & kGrads) grads = arena.take(ring_rows * row), extra_grads = arena.take(extra);
  }

  // Packs `count` tokens, `step` elements apart.
  void pack(const T* token, int64_t step, int64_t count, T* to_planes, int64_t stride, T* to_rows) {
    for (int64_t first = 0; to_planes && first < count; first += kLanes<T>) {
      const T* tokens[kLanes<T>];
      for (int lane = 0; lane < kLanes<T>; ++lane) tokens[lane] = token + min_of(first + lane, count - 1) * step;
      pack_planes<T>(tokens, dim, T(1), to_planes + first, stride);
    }
    for (int64_t i = 0; to_rows && i < count; ++i) pack_row<T>(token + i * step, dim, T(1), to_rows + i * padded);
  }

  void pack_slot(int64_t slot, const T* token, int64_t step, int64_t count) {
    pack(token, step, count, planes ? planes + slot * plane : nullptr, columns, rows ? rows + slot * row : nullptr);
    if (grads) memset(grads + slot * row, 0, static_cast<size_t>(row) * sizeof(T));
  }

  void pack_extra(const T* token, int64_t step, int64_t count) {
    pack(token, step, count, extra_planes, extra_columns, extra_rows);
  }

  // Writes one token's gradient, or adds it to what is there.
  void drop(const T* grad, T* token, bool add) const {
    for (int d = 0; d < dim; d += kLanes<T>) {
      Vec<T> v = load<T>(grad + d);
      if (add) v += load_dims<T>(token, d, dim);
      store_dims<T>(token, d, dim, v);
    }
  }
};

}  // namespace natten_core::cpu::NATTEN_ISA::general
