// How a problem is cut into maps for the dense kernels; plain data, filled on the host.
//
// The residue maps of a dilated problem differ by at most one in length on every axis. Maps of one shape make up a
// segment: they share windows, masks and biases. A block handles every `chunks`-th map of one head, segment by segment.
#pragma once

#include <cstdint>

#include "cuda/device/types.h"
#include "natten_core/neighborhood.h"
#include "natten_core/problem.h"

namespace natten_core::cuda::dense {

constexpr int kTokens = 64;  // of a map, at most
constexpr int kWarps = 4;  // each has 16 queries, and in the backward pass 16 keys
constexpr int kThreads = kWarps * 32;
constexpr int kSegments = 8;

// Quotients of 0 <= n < 2^31 by a multiplication.
struct Divider {
  uint32_t divisor = 1, factor = 0x80000001u;
  int shift = 31;

  Divider() = default;
  explicit Divider(int64_t by) : divisor(static_cast<uint32_t>(by)) {
    while ((int64_t{1} << (shift - 31)) < by) ++shift;
    factor = static_cast<uint32_t>((uint64_t{1} << shift) / divisor + 1);
  }
  DEV_HD int quotient(int n) const {
    return static_cast<int>((static_cast<uint64_t>(static_cast<uint32_t>(n)) * factor) >> shift);
  }
};

// [B, Z, Y, X, heads, ...]; strides in bytes. A sample spans less than 2 GiB.
struct View {
  char* data = nullptr;
  int64_t batch = 0, head = 0;
  int32_t axis[kRank] = {0, 0, 0};
};

struct Segment {
  int32_t first[kRank];  // dilation group
  int32_t length[kRank];  // of the residue maps
  int32_t maps;  // of one head
  Divider groups_x, groups_y, groups_z;
};

struct Geometry {
  int32_t kernel[kRank], dilation[kRank];
  int32_t heads, chunks, segments;
  Segment segment[kSegments];
};

// A map: its sample and its dilation group.
struct Place {
  int batch, group[kRank];
};

DEV_HD Place place_of(const Segment& segment, int map) {
  Place place;
  const int rows = segment.groups_x.quotient(map);
  const int planes = segment.groups_y.quotient(rows);
  place.batch = segment.groups_z.quotient(planes);
  place.group[kX] = segment.first[kX] + map - rows * static_cast<int>(segment.groups_x.divisor);
  place.group[kY] = segment.first[kY] + rows - planes * static_cast<int>(segment.groups_y.divisor);
  place.group[kZ] = segment.first[kZ] + planes - place.batch * static_cast<int>(segment.groups_z.divisor);
  return place;
}

Geometry geometry_of(const Problem& problem);

// Of an element; fp32 is as long in TF32.
inline int bytes_of(const Problem& problem) { return problem.dtype == DType::kFloat32 ? 4 : 2; }

// `bytes` of an element.
View view_of(const Tensor& tensor, int bytes);

}  // namespace natten_core::cuda::dense
