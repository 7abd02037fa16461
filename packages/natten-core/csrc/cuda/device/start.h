// dev::start(kernel, grid, threads, shared_bytes, launch, params): starts a kernel of one parameter, or throws.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>

#include "cuda/device/launch.h"
#include "cuda/device/primitives.h"

namespace dev {

struct Grid {
  unsigned x = 1, y = 1, z = 1;
};

#if defined(__CUDACC__)
inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // or the next launch would be told of this error
  const std::string text = std::string(what) + ": " + cudaGetErrorString(error);
  if (error == cudaErrorMemoryAllocation) throw natten_core::cuda::OutOfMemory(text);
  throw std::runtime_error(text);
}

// More than 48 KiB of shared memory must be asked for, once per kernel and device.
inline void allow_shared(const void* kernel, int bytes) {
  if (bytes <= 48 * 1024) return;
  static std::mutex mutex;
  static std::map<std::pair<const void*, int>, int> allowed;
  int device = 0;
  check(cudaGetDevice(&device), "current device");
  const std::lock_guard<std::mutex> lock(mutex);
  int& most = allowed[{kernel, device}];
  if (bytes <= most) return;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), "shared memory");
  most = bytes;
}

template <class Params>
void start(void (*kernel)(Params), Grid grid, int threads, int shared_bytes, const natten_core::cuda::Launch& launch,
           const Params& params) {
  allow_shared(reinterpret_cast<const void*>(kernel), shared_bytes);
  kernel<<<dim3(grid.x, grid.y, grid.z), threads, shared_bytes, static_cast<cudaStream_t>(launch.stream)>>>(params);
  check(cudaGetLastError(), "launch");
}
#else
template <class Params>
void start(void (*kernel)(Params), Grid grid, int threads, int shared_bytes, const natten_core::cuda::Launch&,
           const Params& params) {
  emu::launch(kernel, {grid.x, grid.y, grid.z}, threads, shared_bytes, params);
}
#endif

}  // namespace dev
