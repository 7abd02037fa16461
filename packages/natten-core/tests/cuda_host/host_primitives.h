// The primitives of csrc/cuda/device/primitives.h on the CPU, by the emulator. Each takes, beyond its arguments on the
// device, the place that it is called from, for reports.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "cuda/device/fragments.h"
#include "cuda/device/types.h"
#include "emulator.h"

#define DEV_KERNEL(...) void
#define DEV_SMEM(name) const uint32_t name = emu::kSmemBase
#define DEV_SITE emu::Site site = emu::Site::here()

namespace dev {

// ---- numbers

namespace host {

inline uint32_t bits(float f) {
  uint32_t u;
  std::memcpy(&u, &f, 4);
  return u;
}
inline float from_bits(uint32_t u) {
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}
inline float half_to_float(uint16_t h) {
  const uint32_t sign = (h & 0x8000u) << 16, rest = h & 0x7fffu;
  if (rest >= 0x7c00u) return from_bits(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
  return from_bits(sign | bits(from_bits(rest << 13) * 0x1p112f));  // subnormals too
}
inline uint16_t float_to_half(float f) {
  const uint32_t u = bits(f), sign = u >> 16 & 0x8000u, rest = u & 0x7fffffffu;
  if (rest > 0x7f800000u) return 0x7fff;
  if (rest >= 0x47800000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (rest < 0x38800000u)  // a subnormal half: adding 0.5 rounds at its last bit
    return static_cast<uint16_t>(sign | (bits(from_bits(rest) + 0.5f) - bits(0.5f)));
  const uint32_t scaled = rest - 0x38000000u;
  return static_cast<uint16_t>(sign | (scaled + 0xfffu + (scaled >> 13 & 1u)) >> 13);
}
inline uint16_t float_to_bf16(float f) {
  const uint32_t u = bits(f);
  if ((u & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return static_cast<uint16_t>((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

inline float flush(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }

// What an approximate instruction may return: the rounded value, moved by the documented error if a test asks for it.
inline float approximate(float y) {
  const float jitter = emu::options().jitter;
  if (jitter != 0 && std::isfinite(y)) y *= 1.0f + ((bits(y) * 2654435761u) >> 31 ? jitter : -jitter);
  return flush(y);
}

}  // namespace host

inline float to_float(half v) { return host::half_to_float(v.x); }
inline float to_float(bf16 v) { return host::from_bits(static_cast<uint32_t>(v.x) << 16); }
inline float to_float(float v) { return v; }
inline float to_float(double v) { return static_cast<float>(v); }

template <class T>
inline T from_float(float f) {
  if constexpr (std::is_same<T, half>::value)
    return {host::float_to_half(f)};
  else if constexpr (std::is_same<T, bf16>::value)
    return {host::float_to_bf16(f)};
  else
    return static_cast<T>(f);
}

template <class T>
inline uint32_t pack(float low, float high) {
  static_assert(is_16_bit<T>, "two 16-bit floats");
  return from_float<T>(low).x | static_cast<uint32_t>(from_float<T>(high).x) << 16;
}
template <class T>
inline float lo(uint32_t u) {
  return to_float(T{static_cast<uint16_t>(u)});
}
template <class T>
inline float hi(uint32_t u) {
  return to_float(T{static_cast<uint16_t>(u >> 16)});
}

// Nothing is cut off: the product does that. nvcc makes the same of it.
inline uint32_t to_tf32(uint32_t bits) { return (bits & 0x7f800000u) == 0x7f800000u ? bits : bits + 0x1000u; }
inline uint32_t to_tf32(float f) { return to_tf32(host::bits(f)); }
// What a mutant has instead (mutations.py).
inline uint32_t not_to_tf32(uint32_t bits) { return bits; }
inline uint32_t not_to_tf32(float f) { return host::bits(f); }

inline float ex2(float x) { return host::approximate(std::exp2(host::flush(x))); }
inline float lg2(float x) { return host::approximate(std::log2(host::flush(x))); }
inline float rcp(float x) { return host::approximate(1.0f / host::flush(x)); }
inline float exp2(float x) { return std::exp2(x); }
inline double exp2(double x) { return std::exp2(x); }
inline float log(float x) { return std::log(x); }
inline double log(double x) { return std::log(x); }
inline float fma(float a, float b, float c) { return std::fma(a, b, c); }
inline double fma(double a, double b, double c) { return std::fma(a, b, c); }
inline float max(float a, float b) { return std::fmax(a, b); }
inline double max(double a, double b) { return std::fmax(a, b); }
inline float min(float a, float b) { return std::fmin(a, b); }
inline double min(double a, double b) { return std::fmin(a, b); }

// ---- memory

template <class T>
inline T lds(uint32_t address, DEV_SITE) {
  static_assert(std::is_trivially_copyable<T>::value && sizeof(T) <= 16 && (sizeof(T) & (sizeof(T) - 1)) == 0, "");
  T v;
  emu::shared_load(&v, address, sizeof v, site);
  return v;
}
template <class T>
inline void sts(uint32_t address, T v, DEV_SITE) {
  static_assert(std::is_trivially_copyable<T>::value && sizeof(T) <= 16 && (sizeof(T) & (sizeof(T) - 1)) == 0, "");
  emu::shared_store(address, &v, sizeof v, site);
}
template <class T>
inline T ldg(const T* p, DEV_SITE) {
  static_assert(std::is_trivially_copyable<T>::value && sizeof(T) <= 16 && (sizeof(T) & (sizeof(T) - 1)) == 0, "");
  T v;
  emu::global_load(&v, p, sizeof v, site);
  return v;
}
template <class T>
inline void stg(T* p, T v, DEV_SITE) {
  static_assert(std::is_trivially_copyable<T>::value && sizeof(T) <= 16 && (sizeof(T) & (sizeof(T) - 1)) == 0, "");
  emu::global_store(p, &v, sizeof v, site);
}

template <int Bytes>
inline void cp_async(uint32_t shared, const void* global, bool valid = true, DEV_SITE) {
  static_assert(Bytes == 16 || Bytes == 8 || Bytes == 4, "sizes of cp.async");
  emu::cp_async(shared, global, Bytes, valid ? Bytes : 0, site);
}
inline void cp_async_commit() { emu::cp_commit(); }
template <int N>
inline void cp_async_wait() {
  emu::cp_wait(N);
}

// ---- mbarriers

inline void mbarrier_init(uint32_t barrier, int count, DEV_SITE) { emu::mbarrier_init(barrier, count, site); }
inline void mbarrier_arrive(uint32_t barrier, DEV_SITE) { emu::mbarrier_arrive(barrier, site); }
inline void mbarrier_wait(uint32_t barrier, uint32_t parity, DEV_SITE) { emu::mbarrier_wait(barrier, parity, site); }
inline void cp_async_mbarrier_arrive(uint32_t barrier, DEV_SITE) { emu::cp_async_mbarrier_arrive(barrier, site); }
template <class T>
inline void prefetch_global(const T*) {}

// ---- matrices

inline void ldmatrix_x1(uint32_t (&r)[1], uint32_t row, DEV_SITE) { emu::ldmatrix(r, 1, row, false, site); }
inline void ldmatrix_x2(uint32_t (&r)[2], uint32_t row, DEV_SITE) { emu::ldmatrix(r, 2, row, false, site); }
inline void ldmatrix_x4(uint32_t (&r)[4], uint32_t row, DEV_SITE) { emu::ldmatrix(r, 4, row, false, site); }
inline void ldmatrix_x1_trans(uint32_t (&r)[1], uint32_t row, DEV_SITE) { emu::ldmatrix(r, 1, row, true, site); }
inline void ldmatrix_x2_trans(uint32_t (&r)[2], uint32_t row, DEV_SITE) { emu::ldmatrix(r, 2, row, true, site); }
inline void ldmatrix_x4_trans(uint32_t (&r)[4], uint32_t row, DEV_SITE) { emu::ldmatrix(r, 4, row, true, site); }

inline uint32_t movmatrix(uint32_t v, DEV_SITE) {
  struct Operands {
    uint32_t v, t;
  } mine{v, 0};
  emu::warp_op("movmatrix", mine, site, [](emu::Warp&, Operands** lane) {
    const auto element = [&](int r, int c) { return lane[r * 4 + c / 2]->v >> (c & 1) * 16 & 0xffffu; };
    for (int l = 0; l < 32; ++l) {
      const int r = l >> 2, c = (l & 3) * 2;
      lane[l]->t = element(c, r) | element(c + 1, r) << 16;
    }
  });
  return mine.t;
}

namespace host {

// What a product makes of one register of a fragment: kCount numbers.
template <class T>
struct Factor {
  static constexpr int kCount = 2, kDepth = 16;  // kDepth: columns of A
  static constexpr auto a = frag_a, b = frag_b;
  static float number(uint32_t u, int i) { return i & 1 ? hi<T>(u) : lo<T>(u); }
};
template <>
struct Factor<tf32> {
  static constexpr int kCount = 1, kDepth = 8;
  static constexpr auto a = frag_a_tf32, b = frag_b_tf32;
  static float number(uint32_t u, int) { return from_bits(u & 0xffffe000u); }  // the rest is cut off, not rounded
};

}  // namespace host

// A sum is rounded once to fp32. Tensor cores keep a few bits beyond and cut off the rest; rounding towards zero in a
// second run brackets that. Neither is bit for bit what a GPU returns.
template <class T>
inline void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, const float (&c)[4], DEV_SITE) {
  static_assert(is_factor<T>, "products of half, bf16 or tf32");
  struct Operands {
    float* d;
    const uint32_t* a;
    uint32_t b[2];
    const float* c;
  } mine{d, a, {b0, b1}, c};
  const char* op = std::is_same<T, half>::value ? "mma f16" : std::is_same<T, bf16>::value ? "mma bf16" : "mma tf32";
  emu::warp_op(op, mine, site, [](emu::Warp&, Operands** lane) {
    using Factor = host::Factor<T>;
    constexpr int kCount = Factor::kCount, kDepth = Factor::kDepth;
    alignas(64) float fa[16][kDepth], fb[kDepth][8];
    alignas(64) double sum[16][8];
    for (int l = 0; l < 32; ++l) {
      for (int i = 0; i < 4 * kCount; ++i)
        fa[Factor::a(l, i).r][Factor::a(l, i).c] = Factor::number(lane[l]->a[i / kCount], i);
      for (int i = 0; i < 2 * kCount; ++i)
        fb[Factor::b(l, i).r][Factor::b(l, i).c] = Factor::number(lane[l]->b[i / kCount], i);
      for (int i = 0; i < 4; ++i) sum[frag_c(l, i).r][frag_c(l, i).c] = lane[l]->c[i];
    }
    for (int m = 0; m < 16; ++m)
      for (int k = 0; k < kDepth; ++k)
        for (int n = 0; n < 8; ++n) sum[m][n] += static_cast<double>(fa[m][k]) * fb[k][n];
    const bool truncate = emu::options().mma_truncate;
    for (int l = 0; l < 32; ++l)
      for (int i = 0; i < 4; ++i) {
        const double exact = sum[frag_c(l, i).r][frag_c(l, i).c];
        float rounded = static_cast<float>(exact);
        if (truncate && std::fabs(static_cast<double>(rounded)) > std::fabs(exact))
          rounded = std::nextafterf(rounded, 0);
        lane[l]->d[i] = rounded;
      }
    emu::stats().mma++;
  });
}
template <class T>
inline void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, DEV_SITE) {
  mma<T>(d, a, b0, b1, d, site);
}

// ---- lanes and warps

namespace host {
template <class T, class Source>
inline T exchange(const char* op, T v, int argument, emu::Site site, Source source) {
  struct Operands {
    T v;
    int argument;
    T out;
  } mine{v, argument, v};
  emu::warp_op(op, mine, site, [&](emu::Warp&, Operands** lane) {
    for (int l = 0; l < 32; ++l) lane[l]->out = lane[source(l, lane[l]->argument) & 31]->v;
  });
  return mine.out;
}
inline uint32_t vote(const char* op, bool p, emu::Site site) {
  struct Operands {
    bool p;
    uint32_t out;
  } mine{p, 0};
  emu::warp_op(op, mine, site, [](emu::Warp&, Operands** lane) {
    uint32_t votes = 0;
    for (int l = 0; l < 32; ++l) votes |= static_cast<uint32_t>(lane[l]->p) << l;
    for (int l = 0; l < 32; ++l) lane[l]->out = votes;
  });
  return mine.out;
}
}  // namespace host

template <class T>
inline T shfl_xor(T v, int mask, DEV_SITE) {
  return host::exchange("shfl_xor", v, mask, site, [](int l, int m) { return l ^ m; });
}
template <class T>
inline T shfl(T v, int lane, DEV_SITE) {
  return host::exchange("shfl", v, lane, site, [](int, int from) { return from; });
}
inline bool any(bool p, DEV_SITE) { return host::vote("any", p, site) != 0; }
inline bool all(bool p, DEV_SITE) { return host::vote("all", p, site) == ~0u; }
inline uint32_t ballot(bool p, DEV_SITE) { return host::vote("ballot", p, site); }
inline void syncwarp(DEV_SITE) { emu::syncwarp(site); }
inline void syncthreads(DEV_SITE) { emu::barrier(0, 0, true, "syncthreads", site); }
inline void bar_sync(int id, int threads, DEV_SITE) { emu::barrier(id, threads, true, "bar_sync", site); }
inline void bar_arrive(int id, int threads, DEV_SITE) { emu::barrier(id, threads, false, "bar_arrive", site); }

}  // namespace dev
