// One product of tiles of given shapes, on the processor's registers or on the emulated ones, for test_tiles.py.
#include "cpu/amx/emulated_tiles.h"
#include "cpu/amx/present.h"

namespace {

using namespace natten_core::cpu;

// c[m][...] += a[m][k] . b[k][n], rows `stride` bytes apart; nothing but their rows is read or written. Tile 3 is
// zeroed and stored to `zeros`.
template <class Tiles>
void product(const int (&size)[3], const void* a, const void* b, void* c, void* zeros, int64_t stride) {
  const auto [rows, pairs, columns] = size;
  TileShapes shapes = {};
  const auto shape = [&](int tile, int tile_rows, int words) {
    shapes.rows[tile] = static_cast<uint8_t>(tile_rows), shapes.row_bytes[tile] = static_cast<uint16_t>(4 * words);
  };
  shape(0, rows, columns), shape(6, rows, pairs), shape(7, pairs, columns), shape(3, rows, columns);
  Tiles tiles(shapes);
  tiles.template load<3>(c, stride);
  tiles.template zero<3>();
  tiles.template store<3>(zeros, stride);
  tiles.template load<0>(c, stride);
  tiles.template load<6>(a, stride);
  tiles.template load<7>(b, stride);
  tiles.template multiply<0, 6, 7>();
  tiles.template store<0>(c, stride);
}

}  // namespace

extern "C" const char* missing() { return amx_missing().c_str(); }

extern "C" void multiply(int emulated, int rows, int pairs, int columns, const void* a, const void* b, void* c,
                         void* zeros, int64_t stride) {
  const int size[3] = {rows, pairs, columns};
  emulated ? product<EmulatedTiles>(size, a, b, c, zeros, stride)
           : product<TileRegisters>(size, a, b, c, zeros, stride);
}
