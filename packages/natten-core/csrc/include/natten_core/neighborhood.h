// The window arithmetic of neighborhood attention, one axis at a time: the only copy in C++ (host and device).
//
// A query at coordinate `i` of an axis of `length` belongs to dilation group `i % dilation` and sits at position
// `i / dilation` in it. Within its group a dilated problem is an undilated one, so the kernels work on groups and
// positions, and only packing and unpacking know coordinates.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define NATTEN_INLINE __host__ __device__ static inline __attribute__((always_inline))
#else
// Internal linkage: a copy compiled for a wide instruction set must never be linked into baseline code.
#define NATTEN_INLINE static inline __attribute__((always_inline))
#endif

namespace natten_core {

NATTEN_INLINE int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
NATTEN_INLINE int64_t max_of(int64_t a, int64_t b) { return a < b ? b : a; }
NATTEN_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Number of coordinates of an axis in dilation group `group`.
NATTEN_INLINE int64_t group_length(int64_t length, int64_t dilation, int64_t group) {
  return length / dilation + (group < length % dilation ? 1 : 0);
}

// The query at `position` sees the keys [window_begin, window_end). Near a border the window shifts inward; it never
// shrinks. An even kernel sees one position more on the left than on the right. All `stride` queries of a step share
// the window of the one that leads them; a causal window is cut at the query, and at the left border. Int is int32_t or
// int64_t, for all that a call is given.
template <class Int>
NATTEN_INLINE Int window_lead(Int position, Int group_length, Int stride, bool causal) {
  if (stride == 1) return position;
  const Int lead = position / stride * stride + (causal ? stride - 1 : stride / 2);
  return lead < group_length ? lead : group_length - 1;
}

template <class Int>
NATTEN_INLINE Int window_begin(Int position, Int group_length, Int kernel_size, Int stride, bool causal) {
  const Int lead = window_lead(position, group_length, stride, causal);
  const Int begin = causal ? lead - kernel_size + 1 : lead - kernel_size / 2;
  const Int last = causal || begin < group_length - kernel_size ? begin : group_length - kernel_size;
  return last > 0 ? last : 0;
}

template <class Int>
NATTEN_INLINE Int window_end(Int position, Int group_length, Int kernel_size, Int stride, bool causal) {
  return causal ? position + 1 : window_begin(position, group_length, kernel_size, stride, causal) + kernel_size;
}

// The queries [seen_begin, seen_end) whose windows contain the key at `position`: window_begin and window_end never
// decrease from one query to the next, so they are neighbours.
template <class Int>
NATTEN_INLINE Int seen_begin(Int position, Int group_length, Int kernel_size, Int stride, bool causal) {
  if (causal) return position;
  if (position < kernel_size) return 0;
  const Int lead = position - kernel_size + 1 + kernel_size / 2;  // of the first step that begins late enough
  const Int first = stride == 1 ? lead : (lead - stride / 2 + stride - 1) / stride * stride;
  return first < group_length ? first : group_length;
}

template <class Int>
NATTEN_INLINE Int seen_end(Int position, Int group_length, Int kernel_size, Int stride, bool causal) {
  const Int lead = position + (causal ? kernel_size - 1 : kernel_size / 2);  // of the last that begins early enough
  const Int always = causal ? group_length - 1 - lead : group_length - kernel_size - position;
  if (always <= 0) return group_length;
  const Int ahead = causal ? stride - 1 : stride / 2;  // of a step's first query
  const Int end = stride == 1 ? lead + 1 : ((lead - ahead) / stride + 1) * stride;
  return end < group_length ? end : group_length;
}

}  // namespace natten_core
