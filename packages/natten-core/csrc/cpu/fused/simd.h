// Vectors of the instruction set that this translation unit is compiled for (GCC/Clang vector extensions), and the
// few operations that the extensions leave out. Included once per instruction set, inside its own namespace.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if !defined(NATTEN_ISA)
#error "define NATTEN_ISA, the namespace of the instruction set, before including the kernels"
#endif

#define NATTEN_MEMBER inline __attribute__((always_inline))
#define NATTEN_KERNEL static NATTEN_MEMBER
#define NATTEN_UNROLL _Pragma("GCC unroll 16")

namespace natten_core::cpu::NATTEN_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
constexpr int kRegisters = 32;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
constexpr int kRegisters = 16;
#elif defined(__aarch64__)
constexpr int kVectorBytes = 16;
constexpr int kRegisters = 32;
#else
constexpr int kVectorBytes = 16;
constexpr int kRegisters = 16;
#endif

template <class T>
struct Simd;
template <>
struct Simd<float> {
  typedef float Vec __attribute__((vector_size(kVectorBytes)));
  typedef float Unaligned __attribute__((vector_size(kVectorBytes), aligned(4), may_alias));
  typedef int32_t Int __attribute__((vector_size(kVectorBytes)));
  typedef uint32_t Bits __attribute__((vector_size(kVectorBytes)));
  using IntElement = int32_t;
};
template <>
struct Simd<double> {
  typedef double Vec __attribute__((vector_size(kVectorBytes)));
  typedef double Unaligned __attribute__((vector_size(kVectorBytes), aligned(8), may_alias));
  typedef int64_t Int __attribute__((vector_size(kVectorBytes)));
  typedef uint64_t Bits __attribute__((vector_size(kVectorBytes)));
  using IntElement = int64_t;
};

// Two bf16 numbers, side by side in memory. The product of two pairs is the sum of both products.
struct Pair {
  uint32_t bits;
};
template <>
struct Simd<Pair> {
  typedef int32_t Vec __attribute__((vector_size(kVectorBytes)));
  typedef int32_t Unaligned __attribute__((vector_size(kVectorBytes), aligned(4), may_alias));
  using Int = Vec;
  using IntElement = int32_t;
};

// What products of E are summed in.
template <class E>
using Sum = std::conditional_t<std::is_same_v<E, Pair>, float, E>;

template <class T>
using Vec = typename Simd<T>::Vec;
template <class T>
using IntVec = typename Simd<T>::Int;
// A number that overload resolution can see.
template <int N>
struct Constant {
  static constexpr int value = N;
};

template <class T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

template <class T>
NATTEN_KERNEL Vec<T> load(const T* p) {
  return *reinterpret_cast<const typename Simd<T>::Unaligned*>(p);
}

template <class T>
NATTEN_KERNEL void store(T* p, Vec<T> v) {
  *reinterpret_cast<typename Simd<T>::Unaligned*>(p) = v;
}

template <class T>
NATTEN_KERNEL Vec<T> broadcast(T x) {
  if constexpr (std::is_same_v<T, Pair>)
    return static_cast<int32_t>(x.bits) + Vec<T>{};
  else
    return x - Vec<T>{};  // x - 0 keeps the sign of zero
}

template <class E>
NATTEN_KERNEL void add_product(Vec<Sum<E>>& sum, Vec<E> a, Vec<E> b) {
#if defined(__AVX512BF16__)
  if constexpr (std::is_same_v<E, Pair>)
    sum = (Vec<float>)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
  else
#endif
    sum += a * b;
}

// Keeps a value that several products share in a register: left to itself, GCC loads it again for each.
template <class T>
NATTEN_KERNEL void keep(Vec<T>& v) {
#if defined(__AVX512F__)
  asm("" : "+v"(v));
#elif defined(__x86_64__)
  asm("" : "+x"(v));
#elif defined(__aarch64__)
  asm("" : "+w"(v));
#else
  (void)v;
#endif
}

// The greater one; b where either is NaN.
template <class T>
NATTEN_KERNEL Vec<T> vmax(Vec<T> a, Vec<T> b) {
  constexpr bool single = sizeof(T) == 4;
#if defined(__AVX512F__)
  if constexpr (single) return (Vec<T>)_mm512_max_ps((__m512)a, (__m512)b);
  if constexpr (!single) return (Vec<T>)_mm512_max_pd((__m512d)a, (__m512d)b);
#elif defined(__AVX2__)
  if constexpr (single) return (Vec<T>)_mm256_max_ps((__m256)a, (__m256)b);
  if constexpr (!single) return (Vec<T>)_mm256_max_pd((__m256d)a, (__m256d)b);
#elif defined(__x86_64__)
  if constexpr (single) return (Vec<T>)_mm_max_ps((__m128)a, (__m128)b);
  if constexpr (!single) return (Vec<T>)_mm_max_pd((__m128d)a, (__m128d)b);
#else
  return a > b ? a : b;
#endif
}

// Lane l of the result is lane offset[l] of v.
template <class T>
NATTEN_KERNEL Vec<T> permute(Vec<T> v, IntVec<T> offset) {
#if defined(__clang__)
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return (Vec<T>)_mm512_permutexvar_ps((__m512i)offset, (__m512)v);
  else
    return (Vec<T>)_mm512_permutexvar_pd((__m512i)offset, (__m512d)v);
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4) return (Vec<T>)_mm256_permutevar8x32_ps((__m256)v, (__m256i)offset);
#endif
  Vec<T> result;
  for (int lane = 0; lane < kLanes<T>; ++lane) result[lane] = v[offset[lane]];
  return result;
#else
  return __builtin_shuffle(v, offset);
#endif
}

// Lane l of the result is p[offset[l]], with offsets of a vector at most.
template <class T>
NATTEN_KERNEL Vec<T> gather(const T* p, IntVec<T> offset) {
#if defined(__x86_64__) && !defined(__AVX2__)
  // SSE2 has no such permutation, and what takes its place goes through memory.
  if constexpr (kLanes<T> == 4) return Vec<T>{p[offset[0]], p[offset[1]], p[offset[2]], p[offset[3]]};
  if constexpr (kLanes<T> == 2) return Vec<T>{p[offset[0]], p[offset[1]]};
#endif
  return permute<T>(load<T>(p), offset);
}

}  // namespace natten_core::cpu::NATTEN_ISA
