// The tile registers of AMX: eight, each of up to 16 rows of 64 bytes. Numbers of tiles are template arguments, as the
// instructions name their registers. In assembly, because GCC's intrinsics make a string of a tile's number.
#pragma once

#include <cstdint>

namespace natten_core::cpu {

constexpr int kTiles = 8, kTileRows = 16, kTileBytes = 64;

struct TileShapes {
  uint16_t row_bytes[kTiles];
  uint8_t rows[kTiles];
};

// Those of the processor, configured for as long as this lives: threads that leave tiles in use pay for them at every
// switch and sleep less deeply. Needs amx_missing() to be empty.
class TileRegisters {
 public:
  explicit TileRegisters(const TileShapes& shapes) {
    struct alignas(64) {
      uint8_t palette, start_row, reserved[14];
      uint16_t row_bytes[16];
      uint8_t rows[16];
    } config = {};
    static_assert(sizeof(config) == 64);
    config.palette = 1;
    for (int t = 0; t < kTiles; ++t) config.row_bytes[t] = shapes.row_bytes[t], config.rows[t] = shapes.rows[t];
    asm volatile("ldtilecfg %0" ::"m"(config));
  }
  ~TileRegisters() { asm volatile("tilerelease" ::: "memory"); }
  TileRegisters(const TileRegisters&) = delete;
  TileRegisters& operator=(const TileRegisters&) = delete;

  template <int T>
  inline __attribute__((always_inline)) void zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(T));
  }

  // Rows `stride` bytes apart.
  template <int T>
  inline __attribute__((always_inline)) void load(const void* rows, int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(rows), "r"(stride), "i"(T) : "memory");
  }
  template <int T>
  inline __attribute__((always_inline)) void store(void* rows, int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(rows), "r"(stride), "i"(T) : "memory");
  }

  // C[m][n] += sum over k of A[m][k] . B[k][n], where A and B hold pairs of bf16 and C floats.
  template <int C, int A, int B>
  inline __attribute__((always_inline)) void multiply() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
  }
};

}  // namespace natten_core::cpu
