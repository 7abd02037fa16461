// What the forward and the backward pass share: sizes, one thread's scratch memory, the ring of packed key rows, and
// the bias as vectors of lanes.
#pragma once

#include <type_traits>

#include "../plan.h"
#include "ahead.h"
#include "math.h"
#include "natten_core/neighborhood.h"
#include "pack.h"
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
  // Of a whole window: slots of one key row, key rows, and slots in all, those of additional keys among them. That of a
  // query may have fewer.
  int slots, key_rows, window;
  int sum_rows, additional_sum;  // of its weighted sum: key rows and additional keys, or pairs of them
  int64_t columns;  // of one plane of a key row
  TokenSizes<E> key, value;
  int64_t bias_rows, bias_class;  // bias table: [class][bias row (2Kz-1)(2Ky-1)][slot][lane]
  int64_t bias_columns;  // 2Kx-1
  int64_t bias_head;  // elements of one head's table

  Sizes(const Problem& problem, const Plan& work)
      : p(problem),
        plan(work),
        additional(static_cast<int>(problem.additional)),
        slots(static_cast<int>(problem.kernel[kX])),
        key_rows(static_cast<int>(problem.kernel[kZ] * problem.kernel[kY])),
        window(slots * key_rows + additional),
        sum_rows(kPaired<E> ? static_cast<int>(problem.kernel[kZ]) * pair_count(static_cast<int>(problem.kernel[kY]))
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

// Turns a query row's scores, `window` of them, into unnormalised weights and calls each(slot, part, weight), the parts
// being the even and the odd slots: one sum over all would be rounded at its full size for every slot after a key that
// has nearly all the weight. A score of minus infinity leaves a weight that no sum shows. Returns the greatest score.
template <class E, class Each>
NATTEN_KERNEL Vec<Sum<E>> weigh(const Sizes<E>& s, int window, Sum<E>* scores, Each each) {
  using T = Sum<E>;
  constexpr int n = kLanes<T>;
  Vec<T> most = load<T>(scores);
  for (int slot = 1; slot < window; ++slot) most = vmax<T>(load<T>(scores + slot * n), most);
  const T unit = s.unit();
  const Vec<T> greatest = kPaired<E> ? most * unit : most;
  const auto take = [&](int slot, int part) __attribute__((always_inline)) {
    const Vec<T> score = load<T>(scores + slot * n);
    const Vec<T> weight = vexp2<T>(kPaired<E> ? score * unit - greatest : score - greatest);
    store<T>(scores + slot * n, weight);
    each(slot, part, weight);
  };
  int slot = 0;
  for (; slot + 1 < window; slot += 2) take(slot, 0), take(slot + 1, 1);
  if (slot < window) take(slot, 0);
  return most;
}

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

// The bias of the chunk's heads, times `factor`, as [head][class][bias row][slot][lane].
template <class E>
NATTEN_KERNEL void fill_bias(const Sizes<E>& s, const Sum<E>* rpb, const Chunk& chunk, Sum<E> factor, Sum<E>* table) {
  constexpr int n = kLanes<E>;
  const int64_t size = s.bias_rows * s.bias_columns;
  for (const Sum<E>* bias = rpb + chunk.head0 * size; bias < rpb + (chunk.head0 + chunk.heads) * size; bias += size)
    for (const LaneClass& c : s.plan.classes)
      for (int64_t row = 0; row < s.bias_rows; ++row)
        for (int j = 0; j < s.slots; ++j, table += n)
          for (int lane = 0; lane < n; ++lane) table[lane] = factor * bias[row * s.bias_columns + c.relative[lane] + j];
}

// The memory of each lane's token; lanes past the last query repeat it.
template <class T, class S>
NATTEN_KERNEL void lane_tokens(const Plan& plan, const S* row, int64_t stride, int64_t column, int64_t last,
                               const S* (&tokens)[kLanes<T>]) {
  for (int lane = 0; lane < kLanes<T>; ++lane)
    tokens[lane] = row + plan.coordinate[min_of(column + lane, last)] * stride;
}

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

  // Slots of query row r, those of additional keys not among them.
  int window(int r) const { return group.window_rows(r) * c.slots; }
};

// Where a walk is: the query rows [y, y + rows) at z, and the key rows [oldest, next) that they see.
struct Stop {
  int64_t z, y;
  int rows;
  int64_t oldest, next;
};

NATTEN_KERNEL Stop stop_at(const Map& map, int64_t z, int64_t y) {
  const int64_t left = map.item.y1 - y;
  Stop stop{z, y, static_cast<int>(ceil_div(left, ceil_div(left, kScoreRows))), 0, 0};  // near-equal parts
  if (map.p.extent[kZ] == 1) {
    stop.oldest = map.y_begin(y), stop.next = map.y_end(y + stop.rows - 1);
  } else {
    stop.oldest = map.z_begin(z) * map.y_length, stop.next = map.z_end(z) * map.y_length;
  }
  return stop;
}

NATTEN_KERNEL Stop first_stop(const Map& map) { return stop_at(map, map.item.z0, map.item.y0); }

// False at the end of the map.
NATTEN_KERNEL bool next_stop(const Map& map, Stop& stop) {
  const bool row_done = stop.y + stop.rows == map.item.y1;
  if (row_done && stop.z + 1 == map.item.z1) return false;
  stop = row_done ? stop_at(map, stop.z + 1, map.item.y0) : stop_at(map, stop.z, stop.y + stop.rows);
  return true;
}

// Key columns that an item sees: [begin, end).
NATTEN_KERNEL void key_columns(const Plan& plan, const Item& item, int64_t& begin, int64_t& end) {
  const Block &first = plan.blocks[item.block0], &last = plan.blocks[item.block1 - 1];
  begin = first.key_column, end = last.key_column + plan.classes[last.lane_class].width;
}

// A tensor of a pass, and the elements of its tokens.
struct Touch {
  const Tensor* tensor = nullptr;
  int64_t dim = 0;
};

// The tensors of a pass, by when they are touched: as key rows are packed; as query rows are computed.
struct Touched {
  Touch keys[4], queries[3];
};

// Asks for what comes after block b of `stop` and the map's head: the next head's or block's queries, and its share of
// the key rows that the next stop packs. `next_tile` may be null.
template <class E, class S>
NATTEN_KERNEL void look_ahead(const Sizes<E>& s, const Map& map, const Item* next_tile, const Touched& touched,
                              const Stop& stop, int64_t packed, int32_t b, Ahead& ahead) {
  const Map next_map(s.p, next_tile ? *next_tile : map.item);
  const Map* there = &map;
  Stop next = stop;
  if (!next_stop(map, next)) {
    if (!next_tile) packed = next.next;
    there = next_tile ? &next_map : nullptr;
    if (there) next = first_stop(next_map), packed = next.oldest;
  }
  const bool last_head = map.head + 1 == map.head0 + map.heads;
  const int32_t blocks = (map.item.block1 - map.item.block0) * map.heads;  // and heads
  const int32_t at = (b - map.item.block0) * map.heads + (map.head - map.head0);
  const bool last = at + 1 == blocks;
  if (!last || there) {
    Map queries = last ? *there : map;
    queries.head = last_head ? queries.head0 : map.head + 1;
    const Block& block = s.plan.blocks[last ? queries.item.block0 : last_head ? b + 1 : b];
    const int64_t end = block.column + s.plan.classes[block.lane_class].lanes;
    const Stop& where = last ? next : stop;
    for (const Touch& t : touched.queries)
      for (int r = 0; t.tensor && r < where.rows; ++r)
        ahead.add(queries.row<S>(*t.tensor, where.z, where.y + r), t.dim, t.tensor->axis[kX], block.column, end);
  }
  if (!there) return;
  int64_t begin, end;
  key_columns(s.plan, there->item, begin, end);
  const int64_t columns = end - begin, first = begin + columns * at / blocks;
  end = begin + columns * (at + 1) / blocks;
  for (int64_t row = max_of(packed, next.oldest); row < next.next; ++row)
    for (const Touch& t : touched.keys)
      if (t.tensor)
        ahead.add(there->key_row<S>(*t.tensor, row / there->y_length, row % there->y_length), t.dim, t.tensor->axis[kX],
                  first, end);
}

// The scores of some query rows at one key row, a sum's most planes at a time.
template <class E>
NATTEN_KERNEL void score_planes(ScoreArgs<E>& a, int rows, Reach reach, int planes, const E* query, const E* key) {
  for (int d = 0; d < planes; d += kScorePlanes) {
    a.query = query + d * kLanes<E>, a.key = key + d * a.key_stride;
    a.planes = static_cast<int>(min_of(kScorePlanes, planes - d));
    scores<E>(a, rows, reach);
    for (int r = 0; r < rows; ++r) a.bias[r] = a.scores[r];
  }
}

// Overwrites what slots hold that a lane's window lacks: whatever lies there, it is no part of anything.
template <class T>
static __attribute__((noinline)) void fill_lacking(const LaneClass& c, int key_rows, T missing, T* slots) {
  constexpr int n = kLanes<T>;
  IntVec<T> count;
  for (int lane = 0; lane < n; ++lane) count[lane] = c.end[lane] - c.offset[lane];
  for (int row = 0; row < key_rows; ++row, slots += c.slots * n)
    for (int j = c.whole; j < c.slots; ++j)
      store<T>(slots + j * n, j < count ? load<T>(slots + j * n) : broadcast<T>(missing));
}

// scores[row][window slot][lane] of all query rows of the work: a row has the slots of the key rows that it sees, one
// behind the other. `bias` is the lane class's table, or null; `missing` is what slots have that a lane lacks.
template <class E>
static void window_scores(const Sizes<E>& s, const TokenSizes<E>& sizes, const Work& w, const E* query,
                          const E* key_planes, const Sum<E>* bias, const Sum<E>* zeros, Sum<E> missing, Sum<E>* out,
                          Ahead& ahead) {
  constexpr int n = kLanes<E>;
  const int64_t bias_step = static_cast<int64_t>(s.slots) * n;
  ScoreArgs<E> a;
  a.query_step = static_cast<int64_t>(sizes.planes) * n, a.key_stride = s.columns;
  set_reach<E>(a, w.c);
  a.slots = w.c.slots;
  for (int i = 0; i < w.group.key_rows; ++i) {
    const KeyRow& key = w.group.keys[i];
    const int rows = key.end - key.first;
    const E* const planes = key_planes + key.slot * sizes.plane + kMargin<E> + w.key_column;
    for (int r = 0; r < rows; ++r) {
      a.scores[r] = out + (static_cast<int64_t>(r + key.first) * s.window + key.window[r + key.first] * a.slots) * n;
      a.bias[r] = bias ? bias + key.bias - r * bias_step : zeros;
    }
    score_planes<E>(a, rows, w.c.reach, sizes.planes, query + key.first * a.query_step, planes);
    ahead.portion();
  }
  if (!w.c.is_whole())
    for (int r = 0; r < w.group.rows; ++r)
      fill_lacking<Sum<E>>(w.c, w.group.window_rows(r), missing, out + static_cast<int64_t>(r) * s.window * n);
}

// Where results of one row of queries are written: memory itself, or for 16-bit types rows of scratch that are then
// rounded.
template <class T, class S>
struct Results {
  static constexpr bool kDirect = std::is_same_v<T, S>;
  S* memory[kLanes<T>];
  T* rows[kLanes<T>];

  NATTEN_MEMBER Results(const Plan& plan, const Work& w, int padded_dim, S* row, int64_t stride, T* scratch) {
    for (int lane = 0; lane < w.c.lanes; ++lane) {
      memory[lane] = row + plan.coordinate[w.column + lane] * stride;
      if constexpr (kDirect)
        rows[lane] = memory[lane];
      else
        rows[lane] = scratch + lane * padded_dim;
    }
  }

  NATTEN_MEMBER void write(int lanes, int head_dim) const {
    if constexpr (!kDirect)
      for (int lane = 0; lane < lanes; ++lane)
        for (int d = 0; d < head_dim; d += kLanes<T>) store_dims<T>(memory[lane], d, head_dim, load<T>(rows[lane] + d));
  }
};

// Writes the packed rows of the window of query row r, from the work's first key column on, and returns how many: key
// rows, or pairs of them.
template <class E>
NATTEN_KERNEL int window_rows(const Sizes<E>& s, const TokenSizes<E>& sizes, const Work& w, int r, const E* rows,
                              const E** pointers) {
  const int keys = w.group.y_keys[r], parts = kPaired<E> ? pair_count(keys) : keys;
  const int64_t* slots = w.group.windows + static_cast<int64_t>(r) * s.key_rows;
  for (int z = 0; z < w.group.z_keys; ++z, slots += keys)
    for (int i = 0; i < parts; ++i)
      *pointers++ = rows + slots[kPaired<E> ? pair_end(i, keys) : i] * sizes.row + w.key_column * sizes.padded_dim;
  return w.group.z_keys * parts;
}

// The weights of query row r [key row][slot][lane] and [additional key][lane] as its weighted sum takes them: as they
// are, or in `pairs`.
template <class E>
NATTEN_KERNEL const E* sum_weights(const Sizes<E>& s, const Work& w, int r, const Sum<E>* weights, E* pairs) {
  if constexpr (kPaired<E>) {
    const int keys = w.group.y_keys[r], step = w.c.slots * kLanes<E>;
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

// A key row as it enters the ring or leaves it: its positions, its slot, and the columns [begin, end) that are packed.
struct RingRow {
  const Map& map;
  int64_t z, y, slot, begin, end;

  template <class S>
  NATTEN_MEMBER S* memory(const Tensor& t) const {
    return map.key_row<S>(t, z, y);
  }
};

// planes[d][margin + column - begin] for the columns of a key row
template <class E, class S>
NATTEN_KERNEL void pack_key_planes(const Sizes<E>& s, const TokenSizes<E>& sizes, const RingRow& row, const Tensor& t,
                                   E* ring) {
  const S* memory = row.memory<S>(t);
  E* planes = ring + row.slot * sizes.plane + kMargin<E>;
  for (int64_t column = row.begin; column < row.end; column += kLanes<E>) {
    const S* tokens[kLanes<E>];
    lane_tokens<E>(s.plan, memory, t.axis[kX], column, row.end - 1, tokens);
    pack_planes<E>(tokens, sizes.head_dim, Sum<E>(1), planes + (column - row.begin), s.columns);
  }
}

// rows[column - begin][d]; pairs are of the key row above and this one.
template <class E, class S>
NATTEN_KERNEL void pack_key_rows(const Sizes<E>& s, const TokenSizes<E>& sizes, const RingRow& row, const Tensor& t,
                                 E* ring) {
  const S *memory = row.memory<S>(t), *above = row.map.key_row<S>(t, row.z, max_of(row.y - 1, 0));
  E* packed = ring + row.slot * sizes.row;
  for (int64_t column = row.begin; column < row.end; ++column, packed += sizes.padded_dim) {
    const int64_t token = s.plan.coordinate[column] * t.axis[kX];
    if constexpr (kPaired<E>)
      pack_pair_row(above + token, memory + token, sizes.head_dim, packed);
    else
      pack_row<E>(memory + token, sizes.head_dim, E(1), packed);
  }
}

// Walks a tile: before each group of query rows, key rows that no window needs any more are given to `drop` and those
// that one needs now to `pack`, each as a RingRow; then `body(map, work, ahead)` gets one block of lanes of one head at
// a time, and what to prefetch meanwhile. In the end what is left is dropped.
template <class E, class S, class Drop, class Pack, class Body>
NATTEN_KERNEL void walk(const Sizes<E>& s, const Item& item, const Item* next_tile, const Touched& touched,
                        RowGroup group, int32_t head0, Drop drop, Pack pack, Body body) {
  Map map(s.p, item);
  Ring ring{s.plan.ring_rows};
  int64_t begin, end;
  key_columns(s.plan, item, begin, end);
  const auto row = [&](int64_t number) {
    return RingRow{map, number / map.y_length, number % map.y_length, ring.slot(number), begin, end};
  };
  const auto drop_until = [&](int64_t oldest) {
    for (; ring.oldest < min_of(oldest, ring.next); ++ring.oldest) drop(row(ring.oldest));
  };
  Ahead ahead(s.plan);
  Stop stop = first_stop(map);
  do {
    group.z = stop.z, group.y = stop.y, group.rows = stop.rows;
    drop_until(stop.oldest);
    if (ring.next <= stop.oldest) ring.next = ring.oldest = stop.oldest;
    for (; ring.next < stop.next; ++ring.next) pack(row(ring.next));
    fill_group<E>(s, map, ring, group);
    for (int32_t b = item.block0; b < item.block1; ++b) {
      const Block& block = s.plan.blocks[b];
      for (map.head = map.head0; map.head < map.head0 + map.heads; ++map.head) {
        ahead.clear();
        look_ahead<E, S>(s, map, next_tile, touched, stop, ring.next, b, ahead);
        body(map,
             Work{s.plan.classes[block.lane_class], group, block.lane_class, map.head - head0, block.column,
                  block.key_column - begin},
             ahead);
      }
    }
  } while (next_stop(map, stop));
  drop_until(ring.next);
}

// Calls body(tile, next tile or null) for the tiles of a chunk's items, each an item of its own.
template <class Body>
NATTEN_KERNEL void for_tiles(const Plan& plan, const Chunk& chunk, Body body) {
  Item tile, next;
  bool any = false;
  for (int32_t i = chunk.item0; i < chunk.item1; ++i) {
    const Item& item = plan.items[i];
    next = item;
    next.add_columns_below = 0;
    for (int32_t b = item.block0; b < item.block1; b += plan.tile_blocks) {
      next.block0 = b, next.block1 = static_cast<int32_t>(min_of(b + plan.tile_blocks, item.block1));
      if (any) body(tile, &next);
      any = true;
      tile = next;
      const Block& last = plan.blocks[next.block1 - 1];
      next.add_columns_below = last.key_column + plan.classes[last.lane_class].width;
    }
  }
  if (any) body(tile, nullptr);
}

}  // namespace natten_core::cpu::NATTEN_ISA
