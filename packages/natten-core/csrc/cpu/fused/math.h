// 2^x and log of a vector, to about one unit in the last place; NaN in, NaN out.
#pragma once

#include <limits>

#include "simd.h"

namespace natten_core::cpu::NATTEN_ISA {

// The score of no key.
template <class T>
constexpr T kNoScore = -std::numeric_limits<T>::infinity();

constexpr double kLn2 = 0.693147180559945309417;
constexpr double kLog2E = 1.44269504088896340736;

template <class T>
struct MathConstants;
template <>
struct MathConstants<float> {
  static constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  static constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  static constexpr float kLeast = -126.0f;
  static constexpr int kMantissa = 23, kLogTerms = 5;
  static constexpr int32_t kBias = 127, kHalfRoot = 0x3f3504f3, kMantissaMask = 0x7fffff;  // sqrt(1/2)
  // Minimax for 2^x on [-1/2, 1/2] with 2^0 = 1 exactly: relative error 2.6e-9.
  static constexpr float kExp2[] = {1.0f,           0.693147215f,    0.2402265278f, 0.05550310551f, 0.009617692973f,
                                    0.00134066439f, 0.0001559467816f};
};
template <>
struct MathConstants<double> {
  static constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double kLn2High = 0.693145751953125, kLn2Low = 1.42860682030941723212e-6;
  static constexpr double kLeast = -1022.0;
  static constexpr int kMantissa = 52, kLogTerms = 11;
  static constexpr int64_t kBias = 1023, kHalfRoot = 0x3fe6a09e667f3bcd, kMantissaMask = 0xfffffffffffff;
  // Relative error 1.8e-17.
  static constexpr double kExp2[] = {1.0,
                                     0.6931471805599457,
                                     0.24022650695910098,
                                     0.055504108664790395,
                                     0.0096181291076070024,
                                     0.0013333558153439965,
                                     0.0001540353044157213,
                                     1.5252727385193868e-5,
                                     1.3215442675329822e-6,
                                     1.0180647659234139e-7,
                                     7.0725704128144235e-9,
                                     4.0780719895883367e-10};
};

// 2^x for x that is not much above 0, as softmax has it; below -126 (-1022 for double) it stays at the least normal
// number instead of vanishing.
template <class T>
NATTEN_KERNEL Vec<T> vexp2(Vec<T> x) {
  using C = MathConstants<T>;
  x = vmax<T>(broadcast<T>(C::kLeast), x);
  const Vec<T> shifted = x + C::kRound;
  const Vec<T> r = x - (shifted - C::kRound);
  constexpr int degree = static_cast<int>(sizeof(C::kExp2) / sizeof(T)) - 1;
  Vec<T> p = broadcast<T>(C::kExp2[degree]);
  NATTEN_UNROLL
  for (int i = degree - 1; i >= 0; --i) p = p * r + C::kExp2[i];
  // The rounding constant shifts out; unsigned, because the sum of a NaN's bits may overflow.
  const typename Simd<T>::Bits power = ((typename Simd<T>::Bits)shifted + C::kBias) << C::kMantissa;
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
