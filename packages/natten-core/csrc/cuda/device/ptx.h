// The primitives on the device. Included by primitives.h, which lists them.
#pragma once

#include <cuda_runtime.h>

#include "cuda/device/fragments.h"
#include "cuda/device/types.h"

#define DEV_KERNEL(...) __global__ void __launch_bounds__(__VA_ARGS__)
#define DEV_SMEM(name)                                                \
  extern __shared__ __align__(1024) unsigned char dev_shared_bytes[]; \
  const uint32_t name = static_cast<uint32_t>(__cvta_generic_to_shared(dev_shared_bytes))

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#define DEV_SM80(...) __trap()
#else
#define DEV_SM80(...) __VA_ARGS__
#endif

namespace dev {

// ---- numbers

DEV_FN float to_float(half v) {
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(v.x));
  return f;
}
DEV_FN float to_float(bf16 v) { return __uint_as_float(static_cast<uint32_t>(v.x) << 16); }
DEV_FN float to_float(float v) { return v; }
DEV_FN float to_float(double v) { return static_cast<float>(v); }

template <class T>
DEV_FN T from_float(float f) {
  if constexpr (std::is_same<T, half>::value) {
    half h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h.x) : "f"(f));
    return h;
  } else if constexpr (std::is_same<T, bf16>::value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
    const uint32_t u = __float_as_uint(f);
    return {static_cast<uint16_t>(f != f ? 0x7fffu : (u + 0x7fffu + (u >> 16 & 1u)) >> 16)};
#else
    bf16 b;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(b.x) : "f"(f));
    return b;
#endif
  } else {
    return static_cast<T>(f);
  }
}

template <class T>
DEV_FN uint32_t pack(float low, float high) {
  static_assert(is_16_bit<T>, "two 16-bit floats");
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  return from_float<T>(low).x | static_cast<uint32_t>(from_float<T>(high).x) << 16;
#else
  uint32_t u;  // the first source operand becomes the upper half
  if constexpr (std::is_same<T, half>::value)
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(u) : "f"(high), "f"(low));
  else
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(u) : "f"(high), "f"(low));
  return u;
#endif
}
template <class T>
DEV_FN float lo(uint32_t u) {
  if constexpr (std::is_same<T, bf16>::value)
    return __uint_as_float(u << 16);
  else
    return to_float(T{static_cast<uint16_t>(u)});
}
template <class T>
DEV_FN float hi(uint32_t u) {
  if constexpr (std::is_same<T, bf16>::value)
    return __uint_as_float(u & 0xffff0000u);
  else
    return to_float(T{static_cast<uint16_t>(u >> 16)});
}

DEV_FN uint32_t to_tf32(float f) {
  uint32_t u = 0;
  DEV_SM80(asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(u) : "f"(f)));
  return u;
}
DEV_FN uint32_t to_tf32(uint32_t bits) { return to_tf32(__uint_as_float(bits)); }

DEV_FN float ex2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
DEV_FN float lg2(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
DEV_FN float rcp(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
DEV_FN float exp2(float x) { return ::exp2f(x); }
DEV_FN double exp2(double x) { return ::exp2(x); }
DEV_FN float log(float x) { return ::logf(x); }
DEV_FN double log(double x) { return ::log(x); }
DEV_FN float fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
DEV_FN double fma(double a, double b, double c) { return __fma_rn(a, b, c); }
DEV_FN float max(float a, float b) { return ::fmaxf(a, b); }
DEV_FN double max(double a, double b) { return ::fmax(a, b); }
DEV_FN float min(float a, float b) { return ::fminf(a, b); }
DEV_FN double min(double a, double b) { return ::fmin(a, b); }

// ---- memory

namespace ptx {

template <int Bytes>
struct Words;
template <>
struct Words<1> {
  using Type = unsigned char;
};
template <>
struct Words<2> {
  using Type = unsigned short;
};
template <>
struct Words<4> {
  using Type = unsigned int;
};
template <>
struct Words<8> {
  using Type = uint2;
};
template <>
struct Words<16> {
  using Type = uint4;
};

// Copies through one register word of the size of T: a struct of small members would be copied member by member.
template <class T>
DEV_FN T load(const void* p) {
  static_assert(std::is_trivially_copyable<T>::value, "bytes are copied");
  const auto words = *static_cast<const typename Words<sizeof(T)>::Type*>(p);
  T v;
  __builtin_memcpy(&v, &words, sizeof v);
  return v;
}
template <class T>
DEV_FN void store(void* p, const T& v) {
  static_assert(std::is_trivially_copyable<T>::value, "bytes are copied");
  typename Words<sizeof(T)>::Type words;
  __builtin_memcpy(&words, &v, sizeof v);
  *static_cast<typename Words<sizeof(T)>::Type*>(p) = words;
}

}  // namespace ptx

template <class T>
DEV_FN T lds(uint32_t address) {
  return ptx::load<T>(__cvta_shared_to_generic(address));
}
template <class T>
DEV_FN void sts(uint32_t address, T v) {
  ptx::store(__cvta_shared_to_generic(address), v);
}
template <class T>
DEV_FN T ldg(const T* p) {
  return ptx::load<T>(p);
}
template <class T>
DEV_FN void stg(T* p, T v) {
  ptx::store(p, v);
}

template <int Bytes>
DEV_FN void cp_async(uint32_t shared, const void* global, bool valid = true) {
  static_assert(Bytes == 16 || Bytes == 8 || Bytes == 4, "sizes of cp.async");
  [[maybe_unused]] const size_t source = __cvta_generic_to_global(global);
  [[maybe_unused]] const int bytes = valid ? Bytes : 0;
  if constexpr (Bytes == 16)
    DEV_SM80(asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(source),
                          "r"(bytes) : "memory"));
  else
    DEV_SM80(asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared), "l"(source), "n"(Bytes),
                          "r"(bytes) : "memory"));
}
DEV_FN void cp_async_commit() { DEV_SM80(asm volatile("cp.async.commit_group;" :: : "memory")); }
template <int N>
DEV_FN void cp_async_wait() {
  DEV_SM80(asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"));
}

// Asks for the 128 bytes around `p` to be brought near.
template <class T>
DEV_FN void prefetch_global(const T* p) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(__cvta_generic_to_global(p)));
}

// ---- mbarriers

DEV_FN void mbarrier_init(uint32_t barrier, int count) {
  DEV_SM80(asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory"));
}
DEV_FN void mbarrier_arrive(uint32_t barrier) {
  DEV_SM80(asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.shared.b64 state, [%0];\n}" ::"r"(barrier) : "memory"));
}
DEV_FN void cp_async_mbarrier_arrive(uint32_t barrier) {
  DEV_SM80(asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(barrier) : "memory"));
}
DEV_FN void mbarrier_wait(uint32_t barrier, uint32_t parity) {
  uint32_t over = 0;
  while (over == 0) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("{\n.reg .pred over;\nmbarrier.try_wait.parity.shared.b64 over, [%1], %2;\nselp.u32 %0, 1, 0, over;\n}"
                 : "=r"(over)
                 : "r"(barrier), "r"(parity)
                 : "memory");
#else
    DEV_SM80(asm volatile(
        "{\n.reg .pred over;\nmbarrier.test_wait.parity.shared.b64 over, [%1], %2;\nselp.u32 %0, 1, 0, over;\n}" : "=r"(
            over) : "r"(barrier),
        "r"(parity) : "memory"));
#endif
  }
}

// ---- matrices

DEV_FN void ldmatrix_x1(uint32_t (&r)[1], uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(r[0]) : "r"(row) : "memory");
}
DEV_FN void ldmatrix_x1_trans(uint32_t (&r)[1], uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];" : "=r"(r[0]) : "r"(row) : "memory");
}
DEV_FN void ldmatrix_x2(uint32_t (&r)[2], uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(row)
               : "memory");
}
DEV_FN void ldmatrix_x2_trans(uint32_t (&r)[2], uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(row)
               : "memory");
}
DEV_FN void ldmatrix_x4(uint32_t (&r)[4], uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row)
               : "memory");
}
DEV_FN void ldmatrix_x4_trans(uint32_t (&r)[4], uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row)
               : "memory");
}
DEV_FN uint32_t movmatrix(uint32_t v) {
  uint32_t t;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(t) : "r"(v));
  return t;
}

template <class T>
DEV_FN void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, const float (&c)[4]) {
  static_assert(is_factor<T>, "products of half, bf16 or tf32");
  if constexpr (std::is_same<T, half>::value)
    DEV_SM80(
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
            "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};" : "=f"(d[0]),
            "=f"(d[1]), "=f"(d[2]), "=f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1),
            "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3])));
  else if constexpr (std::is_same<T, tf32>::value)
    DEV_SM80(
        asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
            "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};" : "=f"(d[0]),
            "=f"(d[1]), "=f"(d[2]), "=f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1),
            "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3])));
  else
    DEV_SM80(
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
            "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};" : "=f"(d[0]),
            "=f"(d[1]), "=f"(d[2]), "=f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1),
            "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3])));
}
template <class T>
DEV_FN void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  static_assert(is_factor<T>, "products of half, bf16 or tf32");
  if constexpr (std::is_same<T, half>::value)
    DEV_SM80(
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
            "{%0,%1,%2,%3};" : "+f"(d[0]),
            "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1)));
  else if constexpr (std::is_same<T, tf32>::value)
    DEV_SM80(
        asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
            "{%0,%1,%2,%3};" : "+f"(d[0]),
            "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1)));
  else
    DEV_SM80(
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
            "{%0,%1,%2,%3};" : "+f"(d[0]),
            "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1)));
}

// ---- lanes and warps

template <class T>
DEV_FN T shfl_xor(T v, int mask) {
  return __shfl_xor_sync(~0u, v, mask);
}
template <class T>
DEV_FN T shfl(T v, int lane) {
  return __shfl_sync(~0u, v, lane);
}
DEV_FN bool any(bool p) { return __any_sync(~0u, p); }
DEV_FN bool all(bool p) { return __all_sync(~0u, p); }
DEV_FN uint32_t ballot(bool p) { return __ballot_sync(~0u, p); }
DEV_FN void syncwarp() { __syncwarp(); }
DEV_FN void syncthreads() { __syncthreads(); }
DEV_FN void bar_sync(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
DEV_FN void bar_arrive(int id, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

}  // namespace dev
