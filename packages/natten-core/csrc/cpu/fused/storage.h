// The 16-bit types that tensors may be stored in. Kernels compute in float: values are widened as they are packed and
// rounded to nearest, ties to even, once, when a result is written.
#pragma once

#include <type_traits>

#include "simd.h"

namespace natten_core::cpu::NATTEN_ISA {

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

typedef uint16_t Narrow __attribute__((vector_size(kVectorBytes / 2)));
typedef uint16_t UnalignedNarrow __attribute__((vector_size(kVectorBytes / 2), aligned(2), may_alias));
typedef uint32_t Wide __attribute__((vector_size(kVectorBytes)));

NATTEN_KERNEL Wide widen(const void* p) {
  return __builtin_convertvector((Narrow)(*reinterpret_cast<const UnalignedNarrow*>(p)), Wide);
}
NATTEN_KERNEL void store_narrow(void* p, Wide bits) {
  *reinterpret_cast<UnalignedNarrow*>(p) = __builtin_convertvector(bits, Narrow);
}

template <class T>
NATTEN_KERNEL Vec<T> load(const BFloat16* p) {
  return (Vec<T>)(widen(p) << 16);
}

template <class T>
NATTEN_KERNEL void store(BFloat16* p, Vec<T> v) {
  const Wide bits = (Wide)v, rounded = bits + 0x7fff + ((bits >> 16) & 1);
  store_narrow(p, v == v ? rounded >> 16 : (bits >> 16) | 0x40);
}

template <class T>
NATTEN_KERNEL Vec<T> load(const Half* p) {
#if defined(__AVX512F__)
  return (Vec<T>)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__F16C__)
  return (Vec<T>)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
  const Wide bits = widen(p), magnitude = (bits & 0x7fff) << 13;
  const Vec<T> scaled = (Vec<T>)magnitude * 0x1p112f;  // moves the exponent, and normalises what was subnormal
  const Wide special = magnitude | 0x7f800000;
  return (Vec<T>)((((bits & 0x7c00) == 0x7c00) ? special : (Wide)scaled) | ((bits & 0x8000) << 16));
#endif
}

template <class T>
NATTEN_KERNEL void store(Half* p, Vec<T> v) {
#if defined(__AVX512F__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
#else
  const Wide sign = ((Wide)v >> 16) & 0x8000, bits = (Wide)v & 0x7fffffff;
  const Wide normal = (bits - (112u << 23) + 0xfff + ((bits >> 13) & 1)) >> 13;
  const Wide subnormal = (Wide)((Vec<T>)bits + 0.5f) - 0x3f000000;  // the addition rounds at 2^-24
  const Wide large = bits > 0x7f800000 ? 0x7e00 + Wide{} : 0x7c00 + Wide{};
  store_narrow(p, sign | (bits >= 0x47800000 ? large : bits < 0x38800000 ? subnormal : normal));
#endif
}

// load_part and store_part touch the first `count` < lanes elements only; what is not loaded is zero.
#if defined(__AVX512F__)
NATTEN_KERNEL __mmask16 first(int count) { return static_cast<__mmask16>((1u << count) - 1); }

template <class T>
NATTEN_KERNEL Vec<T> load_part(const float* p, int count) {
  return (Vec<T>)_mm512_maskz_loadu_ps(first(count), p);
}
template <class T>
NATTEN_KERNEL Vec<T> load_part(const double* p, int count) {
  return (Vec<T>)_mm512_maskz_loadu_pd(static_cast<__mmask8>(first(count)), p);
}
template <class T>
NATTEN_KERNEL Vec<T> load_part(const Half* p, int count) {
  return (Vec<T>)_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(count), p));
}
template <class T>
NATTEN_KERNEL Vec<T> load_part(const BFloat16* p, int count) {
  return (Vec<T>)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first(count), p)), 16);
}
#elif defined(__AVX2__)
NATTEN_KERNEL __m256i first(int count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
template <class T>
NATTEN_KERNEL Vec<T> load_part(const float* p, int count) {
  return (Vec<T>)_mm256_maskload_ps(p, first(count));
}
#endif

template <class T, class S>
NATTEN_KERNEL Vec<T> load_part(const S* p, int count) {
  S part[kLanes<T>] = {};
  for (int i = 0; i < count; ++i) part[i] = p[i];
  return load<T>(part);
}

template <class T, class S>
NATTEN_KERNEL void store_part(S* p, Vec<T> v, int count) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<S, float>) return _mm512_mask_storeu_ps(p, first(count), (__m512)v);
  if constexpr (std::is_same_v<S, double>)
    return _mm512_mask_storeu_pd(p, static_cast<__mmask8>(first(count)), (__m512d)v);
#elif defined(__AVX2__)
  if constexpr (std::is_same_v<S, float>) return _mm256_maskstore_ps(p, first(count), (__m256)v);
#endif
  S part[kLanes<T>];
  store<T>(part, v);
  for (int i = 0; i < count; ++i) p[i] = part[i];
}

}  // namespace natten_core::cpu::NATTEN_ISA
