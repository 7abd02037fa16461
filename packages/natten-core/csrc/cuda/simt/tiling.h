// How much work there is and how it is cut: from the problem alone, so that results do not depend on the device.
#pragma once

#include <cstddef>

#include "cuda/simt/params.h"

namespace natten_core::cuda::simt {

// Tokens of a tile; the registers of a thread hold as many rows' shares, for each of query, key and so on.
constexpr int forward_tokens(DType dtype) { return dtype == DType::kFloat64 ? 2 : 4; }
constexpr int query_tokens(DType) { return 2; }
constexpr int key_tokens(DType dtype) { return dtype == DType::kFloat64 ? 1 : 2; }

int element_bytes(DType dtype);

// Whether rows of `dim` elements can be read in accesses of 16 bytes and fit the registers of a group.
bool is_vectorized(const Problem& problem, int64_t dim);
// Whether every row of a tensor lies where such accesses may begin. On the map: [B, Z, Y, X, ...], else [B, N, ...].
bool is_aligned(const Tensor& tensor, const Problem& problem, bool on_map = true);

bool is_vectorized(const ForwardArgs& args);
bool is_vectorized(const BackwardArgs& args);

Tiling make_tiling(const Problem& problem, int64_t heads, int tokens);

// Where the scratch of a backward lies, in bytes from its beginning.
struct Scratch {
  int rpb_chunks = 0;  // blocks x of the pass that sums grad_rpb; 0: there is none
  int rpb_slots = 0;
  int rpb_shared = 0;  // bytes of shared memory; 0: the tables are in global memory
  int additional_chunks = 0, additional_units = 0;
  size_t rpb = 0, additional = 0, total = 0;
};

// `per_query`: sums that are kept of every query and head, in the beginning. Tokens: of the tiles of the two passes.
Scratch lay_out_scratch(const Problem& problem, int per_query, bool grad_rpb, int query_tile, int key_tile);
Scratch lay_out_scratch(const BackwardArgs& args, bool vectorized);

}  // namespace natten_core::cuda::simt
