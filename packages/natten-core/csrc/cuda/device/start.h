// dev::start(kernel, grid, threads, shared_bytes, launch, params): starts a kernel of one parameter, or throws.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <utility>

#include "cuda/device/check.h"
#include "cuda/device/launch.h"
#include "cuda/device/primitives.h"

namespace dev {

struct Grid {
  unsigned x = 1, y = 1, z = 1;
};

// More than 48 KiB of shared memory must be asked for, once per kernel and device.
inline void allow_shared(const void* kernel, int bytes) {
  if (bytes <= 48 * 1024) return;
  static std::mutex mutex;
  static std::map<std::pair<const void*, int>, int> allowed;
  int device = 0;
  natten_core::cuda::check(cudaGetDevice(&device), "current device");
  const std::lock_guard<std::mutex> lock(mutex);
  int& most = allowed[{kernel, device}];
  if (bytes <= most) return;
  natten_core::cuda::check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
                           "shared memory");
  most = bytes;
}

template <class Params>
void start(void (*kernel)(Params), Grid grid, int threads, int shared_bytes, const natten_core::cuda::Launch& launch,
           const Params& params) {
  allow_shared(reinterpret_cast<const void*>(kernel), shared_bytes);
#if defined(__CUDACC__)
  kernel<<<dim3(grid.x, grid.y, grid.z), threads, shared_bytes, static_cast<cudaStream_t>(launch.stream)>>>(params);
#else
  fake::launch(launch.stream, [&] {
    emu::launch(kernel, {grid.x, grid.y, grid.z}, unsigned(threads), unsigned(shared_bytes), params);
  });
#endif
  natten_core::cuda::check(cudaGetLastError(), "launch");
}

}  // namespace dev
