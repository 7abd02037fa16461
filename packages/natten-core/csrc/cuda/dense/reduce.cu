// The gradient of the bias from the blocks' partial sums, in an order that depends on their number alone.
#include "cuda/dense/kernels.h"
#include "cuda/device/primitives.h"
#include "cuda/device/start.h"

namespace natten_core::cuda::dense {

namespace {

constexpr int kColumns = 32, kRows = 16;

DEV_KERNEL(kColumns* kRows)
reduce_kernel(ReduceParams p) {
  DEV_SMEM(shared);
  const int column = static_cast<int>(threadIdx.x) % kColumns, row = static_cast<int>(threadIdx.x) / kColumns;
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kColumns + column;
  float sum = 0;
  if (at < p.count) {
#pragma unroll 4
    for (int chunk = row; chunk < p.chunks; chunk += kRows)
      sum += dev::ldg(p.partial + static_cast<int64_t>(chunk) * p.count + at);
  }
  dev::sts(shared + threadIdx.x * 4, sum);
  dev::syncthreads();
  if (row != 0 || at >= p.count) return;
#pragma unroll
  for (int r = 1; r < kRows; ++r) sum += dev::lds<float>(shared + (r * kColumns + column) * 4);
  dev::stg(p.sum + at, sum);
}

}  // namespace

void run_reduce(const ReduceParams& params, const Launch& launch) {
  const unsigned blocks = static_cast<unsigned>((params.count + kColumns - 1) / kColumns);
  dev::start(reduce_kernel, {blocks, 1, 1}, kColumns * kRows, kColumns * kRows * 4, launch, params);
}

}  // namespace natten_core::cuda::dense
