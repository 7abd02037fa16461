// Storage types of the kernels: short floats without arithmetic, and small vectors for wide loads and stores.
#pragma once

#include <cstdint>
#include <type_traits>

#if defined(__CUDACC__)
#define DEV_FN __device__ __forceinline__
#define DEV_HD __host__ __device__ __forceinline__
#else
#define DEV_FN inline
#define DEV_HD inline
#endif

namespace dev {

struct half {
  uint16_t x;  // the bits of an IEEE binary16
};

struct bf16 {
  uint16_t x;  // the upper half of an IEEE binary32
};

// An IEEE binary32 of which matrix products see the sign, the exponent and 10 bits of the fraction.
struct tf32 {
  uint32_t x;
};

// N elements that are loaded and stored together; N * sizeof(T) is a power of two of at most 16.
template <class T, int N>
struct alignas(sizeof(T) * N) vec {
  T x[N];
  DEV_HD T& operator[](int i) { return x[i]; }
  DEV_HD const T& operator[](int i) const { return x[i]; }
};

using u128 = vec<uint32_t, 4>;
using u64 = vec<uint32_t, 2>;

template <class T>
inline constexpr bool is_16_bit = std::is_same<T, half>::value || std::is_same<T, bf16>::value;

// Whether tensor cores multiply it.
template <class T>
inline constexpr bool is_factor = is_16_bit<T> || std::is_same<T, tf32>::value;

// Exponentials and logarithms are taken in base 2.
constexpr float kLog2e = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

}  // namespace dev
