// From a dtype to the type of its elements.
#pragma once

#include "cuda/device/types.h"
#include "natten_core/problem.h"

namespace natten_core::cuda::simt {

// run(T{}) with the element type T of `dtype`.
template <class Run>
void with_element(DType dtype, Run&& run) {
  switch (dtype) {
    case DType::kFloat32: return run(float{});
    case DType::kFloat64: return run(double{});
    case DType::kFloat16: return run(dev::half{});
    case DType::kBFloat16: return run(dev::bf16{});
  }
}

}  // namespace natten_core::cuda::simt
