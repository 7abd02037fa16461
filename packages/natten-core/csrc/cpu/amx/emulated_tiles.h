// TileRegisters in plain C++, for tests on machines that have none: the same bits, after Intel's manual (TDPBF16PS:
// fused multiply-adds in float into a sum of the pairs' first products and one of the second, which are added to each
// other and then to C; what is subnormal is zero, everything is rounded to nearest even). What would fault aborts.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "tiles.h"

namespace natten_core::cpu {

class EmulatedTiles {
 public:
  explicit EmulatedTiles(const TileShapes& shapes) : shapes_(shapes) {
    for (int t = 0; t < kTiles; ++t)
      require(shapes.rows[t] <= kTileRows && shapes.row_bytes[t] <= kTileBytes && shapes.row_bytes[t] % 4 == 0 &&
                  (shapes.rows[t] == 0) == (shapes.row_bytes[t] == 0),
              "such a shape");
  }
  EmulatedTiles(const EmulatedTiles&) = delete;
  EmulatedTiles& operator=(const EmulatedTiles&) = delete;

  template <int T>
  void zero() {
    require_shape(T);
    memset(tile_[T], 0, sizeof(tile_[T]));
  }

  template <int T>
  void load(const void* rows, int64_t stride) {
    zero<T>();
    for (int m = 0; m < shapes_.rows[T]; ++m)
      memcpy(tile_[T][m], static_cast<const char*>(rows) + m * stride, shapes_.row_bytes[T]);
  }

  template <int T>
  void store(void* rows, int64_t stride) {
    require_shape(T);
    for (int m = 0; m < shapes_.rows[T]; ++m)
      memcpy(static_cast<char*>(rows) + m * stride, tile_[T][m], shapes_.row_bytes[T]);
  }

  template <int C, int A, int B>
  void multiply() {
    static_assert(C != A && C != B && A != B, "the instruction faults");
    const int rows = shapes_.rows[C], pairs = shapes_.row_bytes[A] / 4, columns = shapes_.row_bytes[C] / 4;
    require(shapes_.rows[A] == rows && shapes_.rows[B] == pairs && shapes_.row_bytes[B] == 4 * columns && rows > 0,
            "a product of tiles of these shapes");
    alignas(64) float b[2][kTileRows][kColumns];
    for (int k = 0; k < pairs; ++k)
      for (int n = 0; n < kColumns; ++n)
        for (int i = 0; i < 2; ++i) b[i][k][n] = half(tile_[B][k][n], i);
    for (int m = 0; m < rows; ++m) {
      alignas(64) float sum[2][kColumns] = {};
      for (int k = 0; k < pairs; ++k)
        for (int i = 0; i < 2; ++i) {
          const float a = half(tile_[A][m][k], i);
          for (int n = 0; n < kColumns; ++n) sum[i][n] = normal(__builtin_fmaf(a, b[i][k][n], sum[i][n]));
        }
      for (int n = 0; n < columns; ++n)
        tile_[C][m][n] = bits(normal(normal(number(tile_[C][m][n])) + normal(sum[0][n] + sum[1][n])));
      memset(tile_[C][m] + columns, 0, static_cast<size_t>(kColumns - columns) * 4);
    }
    memset(tile_[C] + rows, 0, static_cast<size_t>(kTileRows - rows) * kTileBytes);
  }

 private:
  static constexpr int kColumns = kTileBytes / 4;

  static float number(uint32_t word) {
    float x;
    memcpy(&x, &word, 4);
    return x;
  }
  static uint32_t bits(float x) {
    uint32_t word;
    memcpy(&word, &x, 4);
    return word;
  }
  static float normal(float x) { return number((bits(x) & 0x7f800000) == 0 ? bits(x) & 0x80000000 : bits(x)); }
  static float half(uint32_t pair, int i) { return normal(number(i == 0 ? pair << 16 : pair & 0xffff0000)); }

  void require_shape(int t) const { require(shapes_.rows[t] > 0, "a tile without rows"); }
  static void require(bool fine, const char* what) {
    if (fine) return;
    fprintf(stderr, "emulated tiles: AMX would fault at %s\n", what);
    abort();
  }

  const TileShapes shapes_;
  alignas(64) uint32_t tile_[kTiles][kTileRows][kColumns] = {};
};

}  // namespace natten_core::cpu
