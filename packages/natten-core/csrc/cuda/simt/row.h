// Rows of head_dim elements, spread over the lanes of a group.
#pragma once

#include "cuda/device/primitives.h"
#include "cuda/simt/params.h"

#if defined(__CUDACC__)
#define SIMT_UNROLL _Pragma("unroll")
#define SIMT_NO_UNROLL _Pragma("unroll 1")
#else
#define SIMT_UNROLL
#define SIMT_NO_UNROLL
#endif

namespace natten_core::cuda::simt {

template <class T>
struct SumOf {
  using Type = float;
};
template <>
struct SumOf<double> {
  using Type = double;
};

// A kernel's compile-time choices: elements of an access, tokens of a tile, and whether rows may be too long for the
// registers of a group.
template <class T, int Vector, int Tokens, bool Wide>
struct Variant {
  using Element = T;
  using Sum = typename SumOf<T>::Type;
  static constexpr int kVector = Vector;
  static constexpr int kTokens = Tokens;
  static constexpr bool kWide = Wide;
  static_assert(!Wide || Tokens == 1, "long rows are read again for every token");
};

struct Lanes {
  int index, count;
  DEV_FN explicit Lanes(int lanes) : index(static_cast<int>(threadIdx.x) & (lanes - 1)), count(lanes) {}
  DEV_FN int group() const { return static_cast<int>(threadIdx.x) / count; }
};

DEV_FN float wide(dev::half v) { return dev::to_float(v); }
DEV_FN float wide(dev::bf16 v) { return dev::to_float(v); }
DEV_FN float wide(float v) { return v; }
DEV_FN double wide(double v) { return v; }

template <class T>
DEV_FN T narrow(float v) {
  return dev::from_float<T>(v);
}
template <class T>
DEV_FN T narrow(double v) {
  return static_cast<T>(v);
}

// Scores are not kept in powers of two: what is multiplied here is small where the result is not.
DEV_FN float exp_of(float v) { return dev::ex2(v * 1.44269504088896341f); }
DEV_FN double exp_of(double v) { return dev::exp2(v * 1.44269504088896340736); }
DEV_FN float log_of(float v) { return dev::lg2(v) * 0.693147180559945309f; }
DEV_FN double log_of(double v) { return dev::log(v); }

// Sums over the lanes of a group; all of them receive the results.
template <int Mask = 1, class A, int N>
DEV_FN void sum_lanes(A (&value)[N], const Lanes& lanes) {
  if (lanes.count <= Mask) return;
  SIMT_UNROLL
  for (int i = 0; i < N; ++i) value[i] += dev::shfl_xor(value[i], Mask);
  if constexpr (Mask < kMaxLanes / 2) sum_lanes<2 * Mask>(value, lanes);
}

template <class A>
DEV_FN A scale_of(const Shape& shape) {
  if constexpr (sizeof(A) == sizeof(double))
    return shape.scale64;
  else
    return shape.scale;
}

// Elements that this lane holds of the part of a row [dim] that begins at `base`; zeros beyond its end.
template <class V>
DEV_FN void load_row(typename V::Sum (&out)[kElements], const typename V::Element* row, const Lanes& lanes, int base,
                     int dim, bool inside) {
  using Access = dev::vec<typename V::Element, V::kVector>;
  SIMT_UNROLL
  for (int i = 0; i < kElements; i += V::kVector) {
    const int first = base + i * lanes.count + lanes.index * V::kVector;
    Access access{};
    if (inside && first < dim) access = dev::ldg(reinterpret_cast<const Access*>(row + first));
    SIMT_UNROLL
    for (int j = 0; j < V::kVector; ++j) out[i + j] = wide(access[j]);
  }
}

template <class V>
DEV_FN void store_row(typename V::Element* row, const typename V::Sum (&in)[kElements], typename V::Sum factor,
                      const Lanes& lanes, int base, int dim) {
  using Access = dev::vec<typename V::Element, V::kVector>;
  SIMT_UNROLL
  for (int i = 0; i < kElements; i += V::kVector) {
    const int first = base + i * lanes.count + lanes.index * V::kVector;
    Access access{};
    SIMT_UNROLL
    for (int j = 0; j < V::kVector; ++j) access[j] = narrow<typename V::Element>(in[i + j] * factor);
    if (first < dim) dev::stg(reinterpret_cast<Access*>(row + first), access);
  }
}

// The same unrounded, element by element.
template <class V>
DEV_FN void store_sums(typename V::Sum* row, const typename V::Sum (&in)[kElements], typename V::Sum factor,
                       const Lanes& lanes, int base, int dim) {
  SIMT_UNROLL
  for (int i = 0; i < kElements; ++i) {
    const int at = base + (i / V::kVector * lanes.count + lanes.index) * V::kVector + i % V::kVector;
    if (at < dim) dev::stg(row + at, in[i] * factor);
  }
}

// The rows [dim] of a tile's tokens, `step` apart: in registers, or read again each time where they may be too long.
template <class V>
struct Tile {
  using T = typename V::Element;
  using A = typename V::Sum;
  A at[V::kTokens][kElements];
  const T* row;
  int64_t step;
  int dim, count;

  DEV_FN Tile(const T* row_, int64_t step_, int dim_, int count_, const Lanes& lanes)
      : row(row_), step(step_), dim(dim_), count(count_) {
    if constexpr (!V::kWide) {
      SIMT_UNROLL
      for (int i = 0; i < V::kTokens; ++i) load_row<V>(at[i], row + i * step, lanes, 0, dim, i < count);
    }
  }

  // dots[i]: this lane's share of the products of token i with `other`. here: other's elements in the part at `base`.
  DEV_FN void dot(A (&dots)[V::kTokens], A (&here)[kElements], const T* other, bool inside, const Lanes& lanes,
                  int base) const {
    if constexpr (V::kWide) {
      dots[0] = 0;
      A mine[kElements];
      SIMT_NO_UNROLL
      for (int first = 0; first < dim; first += kElements * lanes.count) {
        load_row<V>(mine, row, lanes, first, dim, count > 0);
        load_row<V>(here, other, lanes, first, dim, inside);
        SIMT_UNROLL
        for (int e = 0; e < kElements; ++e) dots[0] = dev::fma(mine[e], here[e], dots[0]);
      }
      load_row<V>(here, other, lanes, base, dim, inside);
    } else {
      load_row<V>(here, other, lanes, base, dim, inside);
      SIMT_UNROLL
      for (int i = 0; i < V::kTokens; ++i) {
        dots[i] = 0;
        SIMT_UNROLL
        for (int e = 0; e < kElements; ++e) dots[i] = dev::fma(at[i][e], here[e], dots[i]);
      }
    }
  }

  // This lane's share of the product of token i alone with `other`.
  DEV_FN A dot_one(int i, const T* other, const Lanes& lanes) const {
    A sum = 0, mine[kElements], here[kElements];
    SIMT_NO_UNROLL
    for (int first = 0; first < dim; first += kElements * lanes.count) {
      load_row<V>(mine, row + i * step, lanes, first, dim, i < count);
      load_row<V>(here, other, lanes, first, dim, i < count);
      SIMT_UNROLL
      for (int e = 0; e < kElements; ++e) sum = dev::fma(mine[e], here[e], sum);
    }
    return sum;
  }
};

}  // namespace natten_core::cuda::simt
