// Which element of a matrix every lane of a warp holds, for mma.m16n8k16 with 16-bit factors and for mma.m16n8k8
// with tf32 factors, both with fp32 sums (PTX ISA, "Matrix fragments for ..."), and for ldmatrix.
//
// - Rows stored [n][k] (keys by head_dim, for Q.K^T): ldmatrix without .trans gives B; .x4 along a row gives the B of
//   two k-steps. Rows stored [k][n] (keys by head_dim, for P.V): ldmatrix.trans gives B.
// - The C fragments of column tiles 2j and 2j + 1, packed to 16 bits, are the A fragment of k-step j, registers
//   {c0 c1}, {c2 c3} of tile 2j, then of tile 2j + 1: probabilities go from sum to factor without any shuffle.
// - tf32: ldmatrix without .trans takes elements as pairs of 16 bits, and rows by 16 bytes give A and B as above. For
//   rows stored [k][n] there is no .trans; B is read word by word, or by 16 bytes that serve four column tiles.
// - The C fragment of column tile j is the A fragment of k-step j, {c0, c2, c1, c3}, if column 2t counts as k = t and
//   column 2t + 1 as k = t + 4, in B too.
#pragma once

#include "cuda/device/types.h"

namespace dev {

struct RowColumn {
  int r, c;
};

// A: 16 x 16 (row, k); 8 elements a lane, two in each of 4 registers, the first in the lower half.
DEV_HD constexpr RowColumn frag_a(int lane, int i) {
  return {(lane >> 2) + (i >> 1 & 1) * 8, (lane & 3) * 2 + (i & 1) + (i >> 2) * 8};
}

// B: 16 x 8 (k, column); 4 elements a lane, two in each of 2 registers.
DEV_HD constexpr RowColumn frag_b(int lane, int i) { return {(lane & 3) * 2 + (i & 1) + (i >> 1) * 8, lane >> 2}; }

// tf32, A: 16 x 8 (row, k); an element in each of 4 registers.
DEV_HD constexpr RowColumn frag_a_tf32(int lane, int i) {
  return {(lane >> 2) + (i & 1) * 8, (lane & 3) + (i >> 1) * 4};
}

// tf32, B: 8 x 8 (k, column); an element in each of 2 registers.
DEV_HD constexpr RowColumn frag_b_tf32(int lane, int i) { return {(lane & 3) + i * 4, lane >> 2}; }

// C and D of both: 16 x 8 (row, column); 4 floats a lane.
DEV_HD constexpr RowColumn frag_c(int lane, int i) { return {(lane >> 2) + (i >> 1) * 8, (lane & 3) * 2 + (i & 1)}; }

}  // namespace dev
