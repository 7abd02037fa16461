// exp and log of a vector, to about one unit in the last place; NaN in, NaN out.
#pragma once

#include "simd.h"

namespace natten_core::cpu::NATTEN_ISA {

template <class T>
struct MathConstants;
template <>
struct MathConstants<float> {
  static constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  static constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  static constexpr float kLeast = -87.0f;
  static constexpr int kMantissa = 23, kExpTerms = 7, kLogTerms = 5;
  static constexpr int32_t kBias = 127, kHalfRoot = 0x3f3504f3, kMantissaMask = 0x7fffff;  // sqrt(1/2)
};
template <>
struct MathConstants<double> {
  static constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double kLn2High = 0.693145751953125, kLn2Low = 1.42860682030941723212e-6;
  static constexpr double kLeast = -708.0;
  static constexpr int kMantissa = 52, kExpTerms = 13, kLogTerms = 11;
  static constexpr int64_t kBias = 1023, kHalfRoot = 0x3fe6a09e667f3bcd, kMantissaMask = 0xfffffffffffff;
};

constexpr double kInverseFactorial[] = {
    1.0,        1.0,         1.0 / 2,      1.0 / 6,       1.0 / 24,       1.0 / 120,       1.0 / 720,
    1.0 / 5040, 1.0 / 40320, 1.0 / 362880, 1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800.0};

// exp(x) for x that is not much above 0, as softmax has it; below about -87 (-708 for double) it stays at the least
// normal number instead of vanishing.
template <class T>
NATTEN_KERNEL Vec<T> vexp(Vec<T> x) {
  using C = MathConstants<T>;
  x = x < C::kLeast ? broadcast<T>(C::kLeast) : x;
  const Vec<T> shifted = x * T(1.44269504088896340736) + C::kRound;
  const Vec<T> n = shifted - C::kRound;
  const Vec<T> r = (x - n * C::kLn2High) - n * C::kLn2Low;
  Vec<T> p = broadcast<T>(T(kInverseFactorial[C::kExpTerms]));
  NATTEN_UNROLL
  for (int i = C::kExpTerms - 1; i >= 0; --i) p = p * r + T(kInverseFactorial[i]);
  const IntVec<T> power = ((IntVec<T>)shifted + C::kBias) << C::kMantissa;  // the rounding constant shifts out
  return p * (Vec<T>)power;
}

// log(x) for positive normal x.
template <class T>
NATTEN_KERNEL Vec<T> vlog(Vec<T> x) {
  using C = MathConstants<T>;
  const IntVec<T> bits = (IntVec<T>)x - C::kHalfRoot;
  const IntVec<T> exponent = bits >> C::kMantissa;
  const Vec<T> m = (Vec<T>)((bits & C::kMantissaMask) + C::kHalfRoot);  // in [sqrt(1/2), sqrt(2))
  const Vec<T> s = (m - T(1)) / (m + T(1)), w = s * s;
  Vec<T> p = broadcast<T>(T(1) / T(2 * C::kLogTerms + 1));
  NATTEN_UNROLL
  for (int i = C::kLogTerms - 1; i >= 0; --i) p = p * w + T(1) / T(2 * i + 1);
  const Vec<T> e = __builtin_convertvector(exponent, Vec<T>);
  const Vec<T> result = e * C::kLn2High + (T(2) * s * p + e * C::kLn2Low);
  return x == x ? result : x;
}

}  // namespace natten_core::cpu::NATTEN_ISA
