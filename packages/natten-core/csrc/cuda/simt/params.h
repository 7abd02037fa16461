// What the kernels of this family are given, and how a map is shared among threads.
//
// A group of `lanes` threads works on a tile: a few tokens of one head that are neighbours along x in their dilation
// group, so that what one of them reads serves the others. Lane l of a group of G holds elements l*V .. l*V+V-1 of a
// row, and those G*V further on, V being the width of an access. A block is a box of tiles, of a few neighbouring
// heads.
#pragma once

#include "natten_core/neighborhood.h"
#include "natten_core/problem.h"

namespace natten_core::cuda::simt {

constexpr int kThreads = 128;
constexpr int kElements = 8;  // of a row, per lane
constexpr int kMaxLanes = 32;

struct Tiling {
  int lanes = 1;                 // of a group; a power of two
  int heads = 1;                 // of a block; a power of two that divides the number of heads
  int slots[kRank] = {1, 1, 1};  // tiles of a block; powers of two
  int cells[kRank] = {1, 1, 1};  // blocks that cover a dilation group
  int blocks = 0;                // of all dilation groups and samples, for each head block
  int head_blocks = 1;
  int parts = 1;  // of a row, each with its own blocks, where it is too long for one group
};

// A tensor, and what it takes to get to the next position of a dilation group: computed once, not in every thread.
struct View {
  void* data = nullptr;
  int64_t batch = 0, head = 0;
  int64_t axis[kRank] = {0, 0, 0};  // from coordinate to coordinate
  int64_t step[kRank] = {0, 0, 0};  // from position to position
};

inline View view_of(const Tensor& tensor, const Problem& problem) {
  View view;
  view.data = tensor.data, view.batch = tensor.batch, view.head = tensor.head;
  for (int axis = 0; axis < kRank; ++axis) {
    view.axis[axis] = tensor.axis[axis];
    view.step[axis] = tensor.axis[axis] * problem.dilation[axis];
  }
  return view;
}

struct Shape {
  int batch, heads, heads_kv, head_dim, head_dim_v, additional;
  int extent[kRank], kernel[kRank], stride[kRank], dilation[kRank];
  int shortest[kRank], longer[kRank];  // length of the last dilation group; groups that have one more
  bool causal[kRank];
  float scale;
  double scale64;
};

inline Shape shape_of(const Problem& problem) {
  Shape shape;
  shape.batch = static_cast<int>(problem.batch);
  shape.heads = static_cast<int>(problem.heads), shape.heads_kv = static_cast<int>(problem.heads_kv);
  shape.head_dim = static_cast<int>(problem.head_dim), shape.head_dim_v = static_cast<int>(problem.head_dim_v);
  shape.additional = static_cast<int>(problem.additional);
  for (int axis = 0; axis < kRank; ++axis) {
    shape.extent[axis] = static_cast<int>(problem.extent[axis]);
    shape.kernel[axis] = static_cast<int>(problem.kernel[axis]);
    shape.stride[axis] = static_cast<int>(problem.stride[axis]);
    shape.dilation[axis] = static_cast<int>(problem.dilation[axis]);
    shape.shortest[axis] =
        static_cast<int>(group_length(problem.extent[axis], problem.dilation[axis], problem.dilation[axis] - 1));
    shape.longer[axis] = shape.extent[axis] - shape.shortest[axis] * shape.dilation[axis];
    shape.causal[axis] = problem.causal[axis];
  }
  shape.scale = static_cast<float>(problem.scale), shape.scale64 = problem.scale;
  return shape;
}

struct ForwardParams {
  Shape shape;
  Tiling tiling;
  View query, key, value, output, lse, additional_key, additional_value;
  const void* rpb;
};

inline ForwardParams params_of(const ForwardArgs& args) {
  const auto view = [&](const Tensor& tensor) { return view_of(tensor, args.problem); };
  return {shape_of(args.problem),
          {},
          view(args.query),
          view(args.key),
          view(args.value),
          view(args.output),
          view(args.lse),
          view(args.additional_key),
          view(args.additional_value),
          args.rpb};
}

struct BackwardParams : ForwardParams {
  View grad_output, grad_lse, grad_query, grad_key, grad_value;
  View sums;                           // [B, Z, Y, X, heads] of pairs: lse, and sum(grad_output * output) - grad_lse
  void* rpb_partial = nullptr;         // [slots, heads, entries]
  bool rpb_in_shared = false;          // whether a group's table is in shared memory while it is summed
  void* additional_partial = nullptr;  // [additional_chunks, B, N, heads_kv, head_dim + head_dim_v]
  int additional_chunks = 0;
};

}  // namespace natten_core::cuda::simt
