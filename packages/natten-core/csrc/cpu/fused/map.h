// A map, the key rows of it that are held packed, and the query rows and lanes that are computed together.
#pragma once

#include "sizes.h"

namespace natten_core::cpu::NATTEN_ISA {

// The map of one (batch entry, head of keys, z group, y group): undilated, in positions.
struct Map {
  const Problem& p;
  const Item& item;
  int64_t z_length, y_length;
  int32_t head;  // the head of query that is computed, [head0, head0 + heads) in turn
  int32_t head0, heads;

  Map(const Problem& problem, const Item& work)
      : p(problem),
        item(work),
        z_length(group_length(problem.extent[kZ], problem.dilation[kZ], work.z_group)),
        y_length(group_length(problem.extent[kY], problem.dilation[kY], work.y_group)),
        heads(static_cast<int32_t>(problem.heads / problem.heads_kv)) {
    head = head0 = work.head * heads;
  }

  // The key rows that a query row sees begin and end here, along z and along y.
  int64_t z_begin(int64_t z) const { return begin(kZ, z, z_length); }
  int64_t z_end(int64_t z) const { return end(kZ, z, z_length); }
  int64_t y_begin(int64_t y) const { return begin(kY, y, y_length); }
  int64_t y_end(int64_t y) const { return end(kY, y, y_length); }
  int64_t begin(Axis axis, int64_t at, int64_t length) const {
    return window_begin(at, length, p.kernel[axis], p.stride[axis], p.causal[axis]);
  }
  int64_t end(Axis axis, int64_t at, int64_t length) const {
    return window_end(at, length, p.kernel[axis], p.stride[axis], p.causal[axis]);
  }
  // Memory of the row at positions (z, y), column 0: of a tensor with the heads of query, and of one with those of
  // keys.
  template <class T>
  T* row(const Tensor& t, int64_t z, int64_t y) const {
    return head_row<T>(t, head, z, y);
  }
  template <class T>
  T* key_row(const Tensor& t, int64_t z, int64_t y) const {
    return head_row<T>(t, item.head, z, y);
  }

 private:
  template <class T>
  T* head_row(const Tensor& t, int64_t of_head, int64_t z, int64_t y) const {
    return static_cast<T*>(t.data) + item.batch * t.batch + of_head * t.head +
           (z * p.dilation[kZ] + item.z_group) * t.axis[kZ] + (y * p.dilation[kY] + item.y_group) * t.axis[kY];
  }
};

// Key rows of a map are numbered z * y_length + y, packed in that order when a window first needs them, and dropped
// when no window needs them any more: the rows in need never exceed the ring.
struct Ring {
  int64_t rows;  // capacity
  int64_t next = 0;  // first row not yet packed
  int64_t oldest = 0;  // first row not yet dropped
  int64_t slot(int64_t row) const { return row % rows; }
};

// A key row as it enters the ring or leaves it: its positions, its slot, and the columns [begin, end) that are packed.
struct RingRow {
  const Map& map;
  int64_t z, y, slot, begin, end;

  template <class S>
  NATTEN_MEMBER S* memory(const Tensor& t) const {
    return map.key_row<S>(t, z, y);
  }
};

// A key row that a group of query rows sees. Those before a causal axis begins are none: what a query row does not see
// costs nothing.
struct KeyRow {
  int64_t slot;  // in the ring
  int64_t bias;  // of query row `first`, in a class's bias table; the next query row's lies one row before
  int32_t first, end;  // the query rows that see it
  int32_t window[kScoreRows];  // its place among the key rows of each of them
};

// Up to kScoreRows query rows that are computed together.
struct RowGroup {
  int64_t z, y;
  int rows;
  int key_rows;  // that any of them sees
  KeyRow* keys;  // [key_rows]
  int64_t* windows;  // [rows][key rows of a whole window] ring slots
  int32_t z_keys, y_keys[kScoreRows];  // what each query row sees, along z and y

  int window_rows(int r) const { return z_keys * y_keys[r]; }

  static int64_t most_keys(const Problem& p) { return p.kernel[kZ] * most_rows_seen(p, kScoreRows); }
};

template <class E>
NATTEN_KERNEL void fill_group(const Sizes<E>& s, const Map& map, const Ring& ring, RowGroup& group) {
  const int64_t *kernel = s.p.kernel, z0 = map.z_begin(group.z), z1 = map.z_end(group.z);
  int64_t begin[kScoreRows], end[kScoreRows];
  for (int r = 0; r < group.rows; ++r) {
    begin[r] = map.y_begin(group.y + r), end[r] = map.y_end(group.y + r);
    group.y_keys[r] = static_cast<int32_t>(end[r] - begin[r]);
  }
  group.z_keys = static_cast<int32_t>(z1 - z0);
  group.key_rows = 0;
  for (int64_t kz = z0; kz < z1; ++kz) {
    for (int64_t ky = begin[0]; ky < end[group.rows - 1]; ++ky) {
      KeyRow& key = group.keys[group.key_rows++];
      key.slot = ring.slot(kz * map.y_length + ky);
      key.first = 0, key.end = group.rows;
      while (end[key.first] <= ky) ++key.first;
      while (begin[key.end - 1] > ky) --key.end;
      key.bias = s.bias_row(kz - group.z + kernel[kZ] - 1, ky - (group.y + key.first) + kernel[kY] - 1);
      for (int32_t r = key.first; r < key.end; ++r) {
        key.window[r] = static_cast<int32_t>((kz - z0) * group.y_keys[r] + ky - begin[r]);
        group.windows[r * s.key_rows + key.window[r]] = key.slot;
      }
    }
  }
}

// A block of lanes in a group of query rows, and where its keys lie in the packed rows.
struct Work {
  const LaneClass& c;
  const RowGroup& group;
  int lane_class, head;  // head counts from the chunk's first
  int64_t column, key_column;  // key_column counts from the first packed column
  int64_t packed_from;  // that column

  // Slots of query row r, those of additional keys not among them.
  int window(int r) const { return group.window_rows(r) * c.slots; }
};

}  // namespace natten_core::cpu::NATTEN_ISA
