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

// First key position of the window of the query at `position`. Near a border the window shifts inward; it never
// shrinks. An even kernel sees one position more on the left than on the right.
NATTEN_INLINE int64_t window_start(int64_t position, int64_t group_length, int64_t kernel_size) {
  return max_of(0, min_of(position - kernel_size / 2, group_length - kernel_size));
}

}  // namespace natten_core
