// Walks an item: tile by tile along x, key rows packed when a window first needs them and dropped when none does any
// more, and the queries two at a time in the order in which windows change least: heads, then the rest of a step.
#pragma once

#include "plan.h"
#include "window.h"

namespace natten_core::cpu::NATTEN_ISA::general {

// The map of one item's dilation groups: undilated, in positions.
struct GroupMap {
  const Problem& p;
  const GeneralItem& item;
  int64_t length[kRank];
  int64_t heads;  // of query that read the item's head

  GroupMap(const Problem& problem, const GeneralItem& work)
      : p(problem), item(work), heads(problem.heads / problem.heads_kv) {
    for (int axis = 0; axis < kRank; ++axis)
      length[axis] = group_length(p.extent[axis], p.dilation[axis], item.group[axis]);
  }

  int64_t begin(int axis, int64_t i) const {
    return window_begin(i, length[axis], p.kernel[axis], p.stride[axis], p.causal[axis]);
  }
  int64_t end(int axis, int64_t i) const {
    return window_end(i, length[axis], p.kernel[axis], p.stride[axis], p.causal[axis]);
  }
  // One past the last query, below `limit`, that has the window of query `i` on this axis.
  int64_t step_end(int axis, int64_t i, int64_t limit) const {
    return p.causal[axis] ? i + 1 : min_of(limit, (i / p.stride[axis] + 1) * p.stride[axis]);
  }
  template <class T>
  T* token(const Tensor& t, int64_t z, int64_t y, int64_t x, int64_t head) const {
    return static_cast<T*>(t.data) + item.batch * t.batch + head * t.head +
           (z * p.dilation[kZ] + item.group[kZ]) * t.axis[kZ] + (y * p.dilation[kY] + item.group[kY]) * t.axis[kY] +
           (x * p.dilation[kX] + item.group[kX]) * t.axis[kX];
  }
  template <class T>
  T* key(const Tensor& t, int64_t row, int64_t x) const {
    return token<T>(t, row / length[kY], row % length[kY], x, item.head);
  }
  template <class T>
  T* query(const Tensor& t, const Query& q) const {
    return token<T>(t, q.z, q.y, q.x, item.head * heads + q.head);
  }
  template <class T>
  void pack_additional(Operand<T>& operand, const Tensor& t) const {
    if (p.additional == 0) return;
    operand.pack_extra(static_cast<const T*>(t.data) + item.batch * t.batch + item.head * t.head, t.axis[kX],
                       p.additional);
  }
};

// What a pass packs: an operand and the tensors behind it. Memory of the gradients may be null.
template <class T>
struct Side {
  Operand<T>& operand;
  const Tensor& source;
  const Tensor& grad;
};

// The bias table of the heads of one item: [heads][bias rows][2Kx-1], and room for a last vector.
struct BiasTable {
  int64_t z_step, y_step, head_step;
  explicit BiasTable(const Problem& p)
      : z_step((2 * p.kernel[kY] - 1) * (2 * p.kernel[kX] - 1)),
        y_step(2 * p.kernel[kX] - 1),
        head_step((2 * p.kernel[kZ] - 1) * z_step) {}
  int64_t elements(const Problem& p) const { return p.heads / p.heads_kv * head_step; }
};

template <class T, int Sides, class Body>
struct Sweep {
  const GroupMap& map;
  const Side<T> (&sides)[Sides];
  WindowRows& rows;
  const BiasTable table;
  const int64_t ring_rows;
  Body body;

  int64_t first = 0, last = 0;      // key columns of the tile
  int64_t add_columns_below = 0;    // key columns that an earlier tile of the item has written
  int64_t oldest = 0, next = 0;     // key rows packed

  void item(int64_t tile) {
    const GeneralItem& i = map.item;
    for (int64_t x = i.begin[kX]; x < i.end[kX]; x += tile) {
      const int64_t end = min_of(x + tile, i.end[kX]);
      first = map.begin(kX, x), last = map.end(kX, end - 1), oldest = next = 0;
      rows_of(x, end);
      add_columns_below = last;
    }
  }

 private:
  void rows_of(int64_t x0, int64_t x1) {
    const GeneralItem& i = map.item;
    const bool deep = map.p.extent[kZ] > 1;
    for (int64_t z = i.begin[kZ], z_end; z < i.end[kZ]; z = z_end) {
      z_end = map.step_end(kZ, z, i.end[kZ]);
      const int64_t kz0 = map.begin(kZ, z), kz1 = map.end(kZ, z);
      for (int64_t y = i.begin[kY], y_end; y < i.end[kY]; y = y_end) {
        y_end = map.step_end(kY, y, i.end[kY]);
        const int64_t ky0 = map.begin(kY, y), ky1 = map.end(kY, y);
        if (deep)
          advance(kz0 * map.length[kY], kz1 * map.length[kY]);
        else
          advance(ky0, ky1);
        window(kz0, kz1, ky0, ky1);
        queries(z, z_end, y, y_end, x0, x1);
      }
    }
    advance(next, next);
  }

  void window(int64_t kz0, int64_t kz1, int64_t ky0, int64_t ky1) {
    rows.count = 0;
    for (int64_t kz = kz0; kz < kz1; ++kz)
      for (int64_t ky = ky0; ky < ky1; ++ky) {
        rows.slot[rows.count] = (kz * map.length[kY] + ky) % ring_rows;
        rows.bias[rows.count] = kz * table.z_step + ky * table.y_step;
        rows.entry[rows.count++] = static_cast<int32_t>((kz - kz0) * map.p.kernel[kY] + ky - ky0);
      }
  }

  void queries(int64_t z0, int64_t z1, int64_t y0, int64_t y1, int64_t x0, int64_t x1) {
    const int64_t* kernel = map.p.kernel;
    Pair pair;
    Query q;
    for (q.x = x0; q.x < x1; ++q.x) {
      const int64_t begin = map.begin(kX, q.x);
      q.begin = begin - first, q.end = map.end(kX, q.x) - first;
      for (q.z = z0; q.z < z1; ++q.z)
        for (q.y = y0; q.y < y1; ++q.y)
          for (q.head = 0; q.head < map.heads; ++q.head) {
            q.bias = q.head * table.head_step + (kernel[kZ] - 1 - q.z) * table.z_step +
                     (kernel[kY] - 1 - q.y) * table.y_step + begin - q.x + kernel[kX] - 1;
            pair.query[pair.count++] = q;
            if (pair.count == 2) flush(pair);
          }
    }
    flush(pair);
  }

  void flush(Pair& pair) {
    if (pair.count == 0) return;
    const Query &a = pair.query[0], &b = pair.query[pair.count - 1];
    pair.vectors = static_cast<int>(ceil_div(max_of(a.end - a.begin, b.end - b.begin), kLanes<T>));
    body(pair);
    pair.count = 0;
  }

  // Drops the key rows before `until`, and packs those up to `wanted`.
  void advance(int64_t until, int64_t wanted) {
    for (; oldest < min_of(until, next); ++oldest)
      for (const Side<T>& side : sides)
        if (side.operand.grads) drop(side, oldest);
    if (next <= until) next = oldest = until;
    for (; next < wanted; ++next)
      for (const Side<T>& side : sides)
        side.operand.pack_slot(next % ring_rows, map.key<T>(side.source, next, first),
                               side.source.axis[kX] * map.p.dilation[kX], last - first);
  }

  void drop(const Side<T>& side, int64_t row) {
    const Operand<T>& operand = side.operand;
    const T* grad = operand.grads + row % ring_rows * operand.row;
    T* token = map.key<T>(side.grad, row, first);
    const int64_t step = side.grad.axis[kX] * map.p.dilation[kX];
    const Axis band = map.p.extent[kZ] > 1 ? kZ : map.p.extent[kY] > 1 ? kY : kX;
    const int64_t row_at = band == kZ ? row / map.length[kY] : row;
    for (int64_t x = first; x < last; ++x, grad += operand.padded, token += step) {
      const int64_t at = band == kX ? x : row_at;
      operand.drop(grad, token, at < map.item.add_below || at >= map.item.add_from || x < add_columns_below);
    }
  }
};

// Sweeps the chunk's items; body(map, pair) gets the queries.
template <class T, int Sides, class Body>
NATTEN_KERNEL void sweep(const Problem& p, const GeneralPlan& plan, const GeneralChunk& chunk,
                         const Side<T> (&sides)[Sides], WindowRows& rows, Body body) {
  for (int32_t i = chunk.item0; i < chunk.item1; ++i) {
    const GroupMap map(p, plan.items[i]);
    const auto pairs = [&](const Pair& pair) { body(map, pair); };
    Sweep<T, Sides, decltype(pairs)> walk{map, sides, rows, BiasTable(p), plan.ring_rows, pairs};
    walk.item(plan.tile);
  }
}

}  // namespace natten_core::cpu::NATTEN_ISA::general
