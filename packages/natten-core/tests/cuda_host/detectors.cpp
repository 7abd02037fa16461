// Small kernels, right with BUG 0 and deliberately wrong otherwise: what the emulator has to notice.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/device/start.h"

namespace py = pybind11;

namespace {

struct Params {
  const float* in;  // 1024 floats, in[i] == i
  float* out;       // 1024 floats
};

DEV_FN uint32_t at(uint32_t shared, int i) { return shared + static_cast<uint32_t>(i) * 4; }

// Every thread reads what a thread of another warp has written, two times over.
template <int BUG>
DEV_KERNEL(128)
exchange(Params p) {
  DEV_SMEM(shared);
  const int t = static_cast<int>(threadIdx.x);
  float sum = 0;
  for (int round = 0; round < 2; ++round) {
    dev::sts(at(shared, t), dev::ldg(p.in + t) + static_cast<float>(round));
    if (BUG == 3) dev::sts(at(shared, t ^ 64), 1.0f);
    if (BUG != 1) dev::syncthreads();
    sum += dev::lds<float>(at(shared, 127 - t));
    if (BUG != 2 || round) dev::syncthreads();
  }
  dev::stg(p.out + t, sum);
}

// The same within a warp.
template <int BUG>
DEV_KERNEL(32)
exchange_in_warp(Params p) {
  DEV_SMEM(shared);
  const int t = static_cast<int>(threadIdx.x);
  float sum = 0;
  for (int round = 0; round < 2; ++round) {
    dev::sts(at(shared, t), dev::ldg(p.in + t) + static_cast<float>(round));
    if (BUG == 0 || BUG == 2) dev::syncwarp();
    if (BUG == 3) dev::shfl_xor(sum, 1);  // orders nothing
    sum += dev::lds<float>(at(shared, 31 - t));
    if (BUG == 0 || BUG == 1 || BUG == 3) dev::syncwarp();
  }
  dev::stg(p.out + t, sum);
}

// Tiles of 128 floats are copied to two buffers in turn, one tile ahead of its use.
template <int BUG>
DEV_KERNEL(128)
pipeline(Params p) {
  DEV_SMEM(shared);
  const int t = static_cast<int>(threadIdx.x), tiles = 5;
  float sum = 0;
  const auto load = [&](int tile) {
    if (tile < tiles && t < 32)
      dev::cp_async<16>(at(shared, (BUG == 4 ? 0 : tile & 1) * 128 + 4 * t), p.in + 128 * tile + 4 * t);
    if (BUG != 6) dev::cp_async_commit();
  };
  load(0);
  for (int tile = 0; tile < tiles; ++tile) {
    load(tile + 1);
    if (BUG != 1) dev::cp_async_wait<BUG == 5 ? 2 : 1>();
    if (BUG != 2) dev::syncthreads();
    sum += dev::lds<float>(at(shared, (BUG == 4 ? 0 : tile & 1) * 128 + 127 - t));
    if (BUG != 3) dev::syncthreads();
  }
  if (BUG != 7) dev::cp_async_wait<0>();
  dev::stg(p.out + t, sum);
}

// A copy nobody waits for.
template <int BUG>
DEV_KERNEL(32)
copy(Params p) {
  DEV_SMEM(shared);
  const int t = static_cast<int>(threadIdx.x);
  dev::cp_async<16>(at(shared, 4 * t), p.in + 4 * t, t < 20);
  dev::cp_async_commit();
  if (BUG != 1) dev::cp_async_wait<0>();
  dev::stg(p.out + t, BUG == 1 ? 0.0f : dev::lds<float>(at(shared, 4 * t)));
}

// Places: shared memory holds 128 floats, in and out 1024.
template <int BUG>
DEV_KERNEL(32)
places(Params p) {
  DEV_SMEM(shared);
  const int t = static_cast<int>(threadIdx.x);
  const auto raw = [](auto* pointer, int bytes) {
    return reinterpret_cast<decltype(pointer)>(uintptr_t(pointer) + bytes);
  };
  dev::sts(at(shared, BUG == 1 ? t + 97 : t), 1.0f);
  if (BUG == 2) dev::lds<float>(at(shared, t - 1));
  if (BUG == 3) dev::sts(shared + 2 + 8 * static_cast<uint32_t>(t), 1.0f);
  if (BUG == 4) dev::ldg(p.in + 993 + t);
  if (BUG == 5) dev::ldg(p.in + t - 1);
  if (BUG == 6) dev::stg(const_cast<float*>(p.in) + t, 1.0f);
  if (BUG == 7) dev::stg(p.out + 1000 + t, 1.0f);
  if (BUG == 8) dev::ldg(raw(p.in, 2));
  if (BUG == 9) dev::stg(reinterpret_cast<dev::u128*>(p.out + 1), dev::u128{});
  if (BUG == 10) dev::cp_async<16>(shared, p.in + 1);
  if (BUG == 11) dev::cp_async<8>(at(shared, 1), p.in);
  if (BUG == 12) dev::cp_async<4>(at(shared, t), p.in + 1000 + t);
  if (BUG == 13) dev::cp_async<4>(at(shared, t), p.in + 1000 + t, t < 24);  // right: nothing is read
  if (BUG == 14) dev::lds<float>(at(shared, t + 32));                      // nobody has written there
  if (BUG == 15) dev::ldg(p.out + t);
  uint32_t r[4];
  if (BUG == 16) dev::ldmatrix_x4(r, at(shared, 4 * t + 1));
  if (BUG == 17) dev::ldmatrix_x4(r, at(shared, 4 * t + 16));
  if (BUG == 18) dev::ldmatrix_x4_trans(r, at(shared, 4 * t));
  if (BUG >= 10 && BUG <= 13) dev::cp_async_commit(), dev::cp_async_wait<0>();
  dev::stg(p.out + t, 1.0f);
}

// Lanes and warps that do not come together.
template <int BUG>
DEV_KERNEL(64)
gathering(Params p) {
  const int t = static_cast<int>(threadIdx.x);
  if (BUG == 1 && t == 37) return;
  float v = dev::ldg(p.in + t);
  uint32_t b = 0;
  float d[4] = {};
  const uint32_t a[4] = {};
  if (BUG != 2 || t != 5) dev::mma<dev::bf16>(d, a, b, b);
  if (BUG == 3 && t < 16)
    v += dev::shfl_xor(v, 1);
  else
    v += dev::shfl(v, 3);
  if (BUG == 4) dev::bar_sync(1, t < 32 ? 64 : 32);
  if (BUG == 5) dev::bar_sync(1, 48);
  if (BUG == 6) dev::bar_sync(16, 64);
  if (BUG == 7) dev::bar_sync(t & 1, 64);
  if (BUG == 8 && t < 32) dev::bar_sync(1, 64);
  if (BUG == 9 && t >= 32) return;  // right: a whole warp may leave
  dev::syncthreads();
  dev::stg(p.out + t, v + d[0]);
}

// One warp fills a slot that the others empty.
template <int BUG>
DEV_KERNEL(128)
ring(Params p) {
  DEV_SMEM(shared);
  const int t = static_cast<int>(threadIdx.x);
  float sum = 0;
  for (int round = 0; round < 4; ++round) {
    if (t < 32) {
      if (round && BUG != 1) dev::bar_sync(2, 128);
      dev::sts(at(shared, t), static_cast<float>(round * 100 + t));
      if (BUG != 2 || round < 3) dev::bar_arrive(1, 128);
    } else {
      if (BUG == 3)
        dev::bar_arrive(1, 128);
      else
        dev::bar_sync(1, 128);
      sum += dev::lds<float>(at(shared, t & 31));
      if (round < 3 && BUG != 1) dev::bar_arrive(2, 128);
    }
  }
  dev::stg(p.out + t, sum);
}

// The same between two warps by mbarriers, at which a lane arrives for its warp.
template <int BUG>
DEV_KERNEL(64)
signals(Params p) {
  DEV_SMEM(shared);
  const int t = static_cast<int>(threadIdx.x), lane = t & 31;
  const uint32_t filled = shared + 128, emptied = shared + 136;
  if (t == 0) dev::mbarrier_init(filled, 1), dev::mbarrier_init(emptied, 1);
  dev::syncthreads();
  float sum = 0;
  for (int round = 0; round < 4; ++round) {
    const uint32_t parity = static_cast<uint32_t>(round & 1);
    if (t < 32) {
      if (round && BUG != 3) dev::mbarrier_wait(emptied, parity ^ 1);
      dev::sts(at(shared, t), static_cast<float>(round * 100 + t));
      if (BUG != 1) dev::syncwarp();
      if (lane == 0) dev::mbarrier_arrive(filled);
    } else {
      if (BUG != 4) dev::mbarrier_wait(filled, parity);
      sum += dev::lds<float>(at(shared, lane));
      if (BUG != 2) dev::syncwarp();
      if (BUG == 2) sum = dev::shfl(sum, lane);  // orders nothing
      if (lane == 0) dev::mbarrier_arrive(emptied);
    }
  }
  dev::stg(p.out + t, sum);
}

// Two blocks, each with its part of the output.
template <int BUG>
DEV_KERNEL(32)
blocks(Params p) {
  const int t = static_cast<int>(threadIdx.x), b = static_cast<int>(blockIdx.x);
  if (BUG == 1) dev::stg(p.out + t, 1.0f);
  if (BUG == 2 && t == 0) dev::stg(p.out + 32 * b, 1.0f), dev::ldg(p.out);
  if (BUG == 3) dev::stg(p.out + 32 * b + t / 2, 1.0f);
  if (BUG == 0) {
    dev::stg(p.out + 32 * b + t, 1.0f);
    dev::syncwarp();
    dev::ldg(p.out + 32 * b + 31 - t);
  }
}

// Accesses of one warp with a stride of STRIDE floats.
template <int STRIDE>
DEV_KERNEL(32)
banks(Params p) {
  DEV_SMEM(shared);
  const int t = static_cast<int>(threadIdx.x);
  dev::sts(at(shared, t * STRIDE), 1.0f);
  dev::syncwarp();
  dev::stg(p.out + t, dev::lds<float>(at(shared, t * STRIDE)));
}
// Rows of 64 bytes, chunks of 16 at which a product's factor is loaded.
template <bool SWIZZLED>
DEV_KERNEL(32)
rows(Params p) {
  DEV_SMEM(shared);
  const int t = static_cast<int>(threadIdx.x);
  const auto chunk = [&](int row, int c) {
    return shared + static_cast<uint32_t>(row * 64 + ((SWIZZLED ? c ^ (row >> 1 & 3) : c) << 4));
  };
  for (int c = 0; c < 4; ++c) dev::sts(chunk(t, c), dev::u128{});
  dev::syncwarp();
  uint32_t r[4];
  dev::ldmatrix_x4(r, chunk(t & 15, t >> 4));
  dev::stg(p.out + t, static_cast<float>(r[0]));
}

// (1 + x) . 1 in tf32, for x of 2^-14 times the number of the thread: rounded before the product, or cut off by it.
template <bool CUT>
DEV_KERNEL(32)
short_factors(Params p) {
  const int t = static_cast<int>(threadIdx.x);
  const float number = 1 + dev::ldg(p.in + t) / 16384;
  uint32_t bits;
  std::memcpy(&bits, &number, 4);
  const uint32_t a[4] = {CUT ? bits : dev::to_tf32(number), 0, 0, 0};
  float d[4] = {};
  dev::mma<dev::tf32>(d, a, (t & 3) == (t >> 2) ? dev::to_tf32(1.0f) : 0, 0);
  dev::stg(p.out + t / 4 * 8 + (t & 3) * 2, d[0]);
  dev::stg(p.out + t / 4 * 8 + (t & 3) * 2 + 1, d[1]);
}

using Kernel = void (*)(Params);
struct Case {
  std::vector<Kernel> kernels;
  int threads;
  unsigned blocks;
  int shared_bytes;
};
Case case_of(const std::string& name) {
  if (name == "exchange") return {{exchange<0>, exchange<1>, exchange<2>, exchange<3>}, 128, 2, 512};
  if (name == "exchange_in_warp")
    return {{exchange_in_warp<0>, exchange_in_warp<1>, exchange_in_warp<2>, exchange_in_warp<3>}, 32, 1, 128};
  if (name == "pipeline")
    return {{pipeline<0>, pipeline<1>, pipeline<2>, pipeline<3>, pipeline<4>, pipeline<5>, pipeline<6>, pipeline<7>},
            128,
            1,
            1024};
  if (name == "copy") return {{copy<0>, copy<1>}, 32, 1, 512};
  if (name == "places")
    return {
        {places<0>, places<1>, places<2>, places<3>, places<4>, places<5>, places<6>, places<7>, places<8>, places<9>,
         places<10>, places<11>, places<12>, places<13>, places<14>, places<15>, places<16>, places<17>, places<18>},
        32,
        1,
        512};
  if (name == "gathering")
    return {{gathering<0>, gathering<1>, gathering<2>, gathering<3>, gathering<4>, gathering<5>, gathering<6>,
             gathering<7>, gathering<8>, gathering<9>},
            64,
            1,
            0};
  if (name == "ring") return {{ring<0>, ring<1>, ring<2>, ring<3>}, 128, 1, 128};
  if (name == "signals") return {{signals<0>, signals<1>, signals<2>, signals<3>, signals<4>}, 64, 1, 144};
  if (name == "blocks") return {{blocks<0>, blocks<1>, blocks<2>, blocks<3>}, 32, 2, 0};
  if (name == "banks") return {{banks<1>, banks<2>, banks<32>, banks<33>}, 32, 1, 33 * 32 * 4};
  if (name == "short_factors") return {{short_factors<false>, short_factors<true>}, 32, 1, 0};
  if (name == "rows") return {{rows<false>, rows<true>}, 32, 1, 2048};
  throw std::invalid_argument(name);
}

// Kinds of reports, wavefronts [operation, counted, least], output.
py::tuple run(const std::string& name, size_t bug, unsigned seed) {
  const Case c = case_of(name);
  std::vector<float> in(1024), out(1024);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<float>(i);
  emu::options() = {};
  emu::options().seed = seed, emu::options().count_banks = true;
  emu::journal().clear();
  emu::global().clear();
  emu::global().add(in.data(), in.size() * 4, emu::Access::kRead);
  emu::global().add(out.data(), out.size() * 4, emu::Access::kWrite);
  dev::start(c.kernels.at(bug), {name == "exchange" ? 1 : c.blocks}, c.threads, c.shared_bytes, {},
             {in.data(), out.data()});
  py::list reports, wavefronts;
  for (const auto& [where, report] : emu::journal().reports) reports.append(where.first);
  for (const auto& [where, w] : emu::journal().wavefronts)
    wavefronts.append(py::make_tuple(where.first, w.wavefronts, w.least));
  return py::make_tuple(reports, wavefronts, out);
}

}  // namespace

PYBIND11_MODULE(_cuda_host, m) { m.def("run", &run); }
