#include "cuda/band/backward.h"
#include "cuda/device/primitives.h"
#include "cuda/device/start.h"

namespace natten_core::cuda::band {
namespace {

constexpr int kWarps = 8;  // each sums every eighth chunk

DEV_KERNEL(kWarps * 32) reduce_kernel(const ReduceParams p) {
  DEV_SMEM(shared);
  const int lane = int(threadIdx.x & 31), warp = int(threadIdx.x >> 5), entry = int(blockIdx.x) * 32 + lane;
  float sum = 0.f;
  if (entry < p.entries) {
#pragma unroll 4
    for (int chunk = warp; chunk < p.chunks; chunk += kWarps)
      sum += dev::ldg(p.parts + int64_t(chunk) * p.entries + entry);
  }
  dev::sts(shared + threadIdx.x * 4, sum);
  dev::syncthreads();
  if (warp > 0 || entry >= p.entries) return;
  for (int w = 1; w < kWarps; ++w) sum += dev::lds<float>(shared + uint32_t((w * 32 + lane) * 4));
  dev::stg(p.sum + entry, sum);
}

}  // namespace

void reduce_chunks(const ReduceParams& params, const Launch& launch) {
  dev::start(reduce_kernel, {unsigned(ceil_div(params.entries, 32))}, kWarps * 32, kWarps * 32 * 4, launch, params);
}

}  // namespace natten_core::cuda::band
