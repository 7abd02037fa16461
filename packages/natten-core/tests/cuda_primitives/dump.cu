// Single primitives on raw registers and bytes: compiled by nvcc for a device, by g++ for the emulator, and held
// against the same tables in both.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>

#include "cuda/device/start.h"

namespace {

struct Params {
  const uint32_t* in;  // what each kernel makes of it: see there
  uint32_t* out;
  int count;
};

DEV_FN float as_float(uint32_t u) {
  float f;
  memcpy(&f, &u, 4);
  return f;
}
DEV_FN uint32_t as_bits(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  return u;
}

// in: [32][10]: 4 registers of A, 2 of B, 4 of C. out: [32][8]: D with C given, D added to C.
template <class T>
DEV_KERNEL(32)
mma(Params p) {
  const uint32_t* in = p.in + threadIdx.x * 10;
  uint32_t r[10];
  for (int i = 0; i < 10; ++i) r[i] = dev::ldg(in + i);
  const uint32_t a[4] = {r[0], r[1], r[2], r[3]};
  const float c[4] = {as_float(r[6]), as_float(r[7]), as_float(r[8]), as_float(r[9])};
  float d[4], sum[4] = {c[0], c[1], c[2], c[3]};
  dev::mma<T>(d, a, r[4], r[5], c);
  dev::mma<T>(sum, a, r[4], r[5]);
  for (int i = 0; i < 4; ++i) {
    dev::stg(p.out + threadIdx.x * 8 + i, as_bits(d[i]));
    dev::stg(p.out + threadIdx.x * 8 + 4 + i, as_bits(sum[i]));
  }
}

// in: 128 words of shared memory, then [32] byte offsets of rows. out: [32][14]: x1, x2, x4, then the same transposed.
DEV_KERNEL(32) ldmatrix(Params p) {
  DEV_SMEM(shared);
  const int lane = static_cast<int>(threadIdx.x);
  for (int i = lane; i < 128; i += 32) dev::sts(shared + static_cast<uint32_t>(i) * 4, dev::ldg(p.in + i));
  dev::syncwarp();
  const uint32_t row = shared + dev::ldg(p.in + 128 + lane);
  uint32_t r1[1], r2[2], r4[4], t1[1], t2[2], t4[4];
  dev::ldmatrix_x1(r1, row), dev::ldmatrix_x2(r2, row), dev::ldmatrix_x4(r4, row);
  dev::ldmatrix_x1_trans(t1, row), dev::ldmatrix_x2_trans(t2, row), dev::ldmatrix_x4_trans(t4, row);
  const uint32_t all[14] = {r1[0], r2[0], r2[1], r4[0], r4[1], r4[2], r4[3],
                            t1[0], t2[0], t2[1], t4[0], t4[1], t4[2], t4[3]};
  for (int i = 0; i < 14; ++i) dev::stg(p.out + lane * 14 + i, all[i]);
}

// in, out: [32].
DEV_KERNEL(32) movmatrix(Params p) {
  const int lane = static_cast<int>(threadIdx.x);
  dev::stg(p.out + lane, dev::movmatrix(dev::ldg(p.in + lane)));
}

// in: [32] flags, then [32][Bytes / 4] words. out: [32][Bytes / 4]: what lane i copied if its flag is set. Two groups
// of copies, the first waited for while the second is under way.
template <int Bytes>
DEV_KERNEL(32)
cp_async(Params p) {
  DEV_SMEM(shared);
  constexpr int kWords = Bytes / 4;
  const int lane = static_cast<int>(threadIdx.x);
  const uint32_t first = shared + static_cast<uint32_t>(lane) * Bytes, second = first + 32 * Bytes;
  for (int i = 0; i < kWords; ++i) dev::sts(first + 4 * i, ~0u), dev::sts(second + 4 * i, ~0u);
  const bool valid = dev::ldg(p.in + lane) != 0;
  dev::cp_async<Bytes>(first, p.in + 32 + lane * kWords, valid);
  dev::cp_async_commit();
  dev::cp_async<Bytes>(second, p.in + 32 + lane * kWords, !valid);
  dev::cp_async_commit();
  dev::cp_async_wait<1>();
  dev::syncwarp();
  const int other = 31 - lane;
  for (int i = 0; i < kWords; ++i)
    dev::stg(p.out + other * kWords + i, dev::lds<uint32_t>(shared + static_cast<uint32_t>(other * Bytes + 4 * i)));
  dev::cp_async_wait<0>();
  for (int i = 0; i < kWords; ++i)
    dev::stg(p.out + (32 + lane) * kWords + i, dev::lds<uint32_t>(second + 4 * static_cast<uint32_t>(i)));
}

// in: [32][2]: a value, an argument. out: [32][7]: shfl_xor and shfl of words and floats, of the value as a double (its
// whole part), ballot, any and all.
DEV_KERNEL(32) lanes(Params p) {
  const int lane = static_cast<int>(threadIdx.x);
  const uint32_t value = dev::ldg(p.in + 2 * lane), flag = dev::ldg(p.in + 2 * lane + 1);
  const int by = static_cast<int>(flag & 31);
  const uint32_t all[7] = {dev::shfl_xor(value, 5),
                           dev::shfl(value, by),
                           as_bits(dev::shfl_xor(as_float(value), 16)),
                           static_cast<uint32_t>(dev::shfl(static_cast<double>(value) * 3, by) / 3),
                           static_cast<uint32_t>(dev::shfl_xor(static_cast<double>(value) * 3, 2) / 3),
                           dev::ballot(flag & 1),
                           (dev::any(value == 7) ? 1u : 0u) | (dev::all(value != 7) ? 2u : 0u)};
  for (int i = 0; i < 7; ++i) dev::stg(p.out + lane * 7 + i, all[i]);
}

// in: [count] floats. out: [count][9]: as half, as bf16, packed with its negative as either, both unpacked again.
DEV_KERNEL(32) convert(Params p) {
  for (int i = static_cast<int>(threadIdx.x); i < p.count; i += 32) {
    const float x = as_float(dev::ldg(p.in + i));
    const dev::half h = dev::from_float<dev::half>(x);
    const dev::bf16 b = dev::from_float<dev::bf16>(x);
    const uint32_t hh = dev::pack<dev::half>(x, -x), bb = dev::pack<dev::bf16>(x, -x);
    const uint32_t all[9] = {h.x,
                             b.x,
                             hh,
                             bb,
                             as_bits(dev::to_float(h)),
                             as_bits(dev::lo<dev::half>(hh)),
                             as_bits(dev::hi<dev::half>(hh)),
                             as_bits(dev::lo<dev::bf16>(bb)),
                             as_bits(dev::hi<dev::bf16>(bb))};
    for (int j = 0; j < 9; ++j) dev::stg(p.out + i * 9 + j, all[j]);
  }
}

// in: [count] floats. out: [count][2]: as tf32, from a float and from its bits.
DEV_KERNEL(32) convert_tf32(Params p) {
  for (int i = static_cast<int>(threadIdx.x); i < p.count; i += 32) {
    const uint32_t x = dev::ldg(p.in + i);
    dev::stg(p.out + i * 2, dev::to_tf32(as_float(x)));
    dev::stg(p.out + i * 2 + 1, dev::to_tf32(x));
  }
}

// in: [count] floats. out: [count][3]: ex2, lg2, rcp.
DEV_KERNEL(32) approximate(Params p) {
  for (int i = static_cast<int>(threadIdx.x); i < p.count; i += 32) {
    const float x = as_float(dev::ldg(p.in + i));
    dev::stg(p.out + i * 3, as_bits(dev::ex2(x)));
    dev::stg(p.out + i * 3 + 1, as_bits(dev::lg2(x)));
    dev::stg(p.out + i * 3 + 2, as_bits(dev::rcp(x)));
  }
}

// in: [64][4] words: of each size of access, a value read and written through shared memory. out: the same.
template <class T>
DEV_FN void through(const Params& p, uint32_t shared) {
  const int n = 1024 / static_cast<int>(sizeof(T));
  const T* in = reinterpret_cast<const T*>(p.in);
  T* out = reinterpret_cast<T*>(p.out);
  for (int i = static_cast<int>(threadIdx.x); i < n; i += 64)
    dev::sts(shared + static_cast<uint32_t>(i * static_cast<int>(sizeof(T))), dev::ldg(in + i));
  dev::syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < n; i += 64)
    dev::stg(out + i, dev::lds<T>(shared + static_cast<uint32_t>((n - 1 - i) * static_cast<int>(sizeof(T)))));
}
template <class T>
DEV_KERNEL(64)
memory(Params p) {
  DEV_SMEM(shared);
  through<T>(p, shared);
}

// out: [4][64]: a ring of one slot between two warps, by named barriers.
DEV_KERNEL(64) ring(Params p) {
  DEV_SMEM(shared);
  const int lane = static_cast<int>(threadIdx.x & 31);
  for (int round = 0; round < 4; ++round) {
    if (threadIdx.x < 32) {
      if (round) dev::bar_sync(2, 64);
      dev::sts(shared + static_cast<uint32_t>(lane) * 4, static_cast<uint32_t>(100 * round + lane));
      dev::bar_arrive(1, 64);
    } else {
      dev::bar_sync(1, 64);
      dev::stg(p.out + 32 * round + lane, dev::lds<uint32_t>(shared + static_cast<uint32_t>(31 - lane) * 4));
      if (round < 3) dev::bar_arrive(2, 64);
    }
  }
}

void start(const std::string& name, const Params& p) {
  const natten_core::cuda::Launch launch;
  const auto run = [&](void (*kernel)(Params), int threads) {
    dev::start(kernel, dev::Grid{}, threads, 2048, launch, p);
  };
  if (name == "mma half") return run(mma<dev::half>, 32);
  if (name == "mma bf16") return run(mma<dev::bf16>, 32);
  if (name == "mma tf32") return run(mma<dev::tf32>, 32);
  if (name == "ldmatrix") return run(ldmatrix, 32);
  if (name == "movmatrix") return run(movmatrix, 32);
  if (name == "cp_async 16") return run(cp_async<16>, 32);
  if (name == "cp_async 8") return run(cp_async<8>, 32);
  if (name == "cp_async 4") return run(cp_async<4>, 32);
  if (name == "lanes") return run(lanes, 32);
  if (name == "convert") return run(convert, 32);
  if (name == "convert tf32") return run(convert_tf32, 32);
  if (name == "approximate") return run(approximate, 32);
  if (name == "memory 2") return run(memory<dev::bf16>, 64);
  if (name == "memory 4") return run(memory<float>, 64);
  if (name == "memory 8") return run(memory<dev::vec<dev::half, 4>>, 64);
  if (name == "memory 16") return run(memory<dev::u128>, 64);
  if (name == "ring") return run(ring, 64);
  throw std::runtime_error("no kernel " + name);
}

std::string run(const char* name, const uint32_t* in, int words_in, uint32_t* out, int words_out, int count) {
  const size_t bytes_in = size_t(words_in) * 4, bytes_out = size_t(words_out) * 4;
#if defined(__CUDACC__)
  void *device_in = nullptr, *device_out = nullptr;
  natten_core::cuda::check(cudaMalloc(&device_in, bytes_in), "cudaMalloc");
  natten_core::cuda::check(cudaMalloc(&device_out, bytes_out), "cudaMalloc");
  natten_core::cuda::check(cudaMemcpy(device_in, in, bytes_in, cudaMemcpyHostToDevice), "cudaMemcpy");
  natten_core::cuda::check(cudaMemset(device_out, 0, bytes_out), "cudaMemset");
  start(name, {static_cast<const uint32_t*>(device_in), static_cast<uint32_t*>(device_out), count});
  natten_core::cuda::check(cudaMemcpy(out, device_out, bytes_out, cudaMemcpyDeviceToHost), name);
  cudaFree(device_in), cudaFree(device_out);
  return "";
#else
  emu::journal().clear();
  emu::global().clear();
  emu::global().add(in, bytes_in, emu::Access::kRead);
  emu::global().add(out, bytes_out, emu::Access::kWrite);
  start(name, {in, out, count});
  std::string text;
  for (const auto& [where, report] : emu::journal().reports)
    text += where.first + " in line " + std::to_string(where.second.line) + ": " + report.text + "\n";
  return text;
#endif
}

}  // namespace

// Returns 0, or 1 with what went wrong in `message`.
extern "C" __attribute__((visibility("default"))) int dump(const char* name, const uint32_t* in, int words_in,
                                                           uint32_t* out, int words_out, int count, char* message,
                                                           int message_bytes) {
  std::string text;
  try {
    text = run(name, in, words_in, out, words_out, count);
  } catch (const std::exception& error) {
    text = error.what();
  }
  std::snprintf(message, static_cast<size_t>(message_bytes), "%s", text.c_str());
  return text.empty() ? 0 : 1;
}
