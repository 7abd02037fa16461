// Where and how a kernel is started. Plain C++: any file may include it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>

namespace natten_core::cuda {

// The device has no memory left for what starting a kernel takes, its code among it.
struct OutOfMemory : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Launch {
  void* stream = nullptr;     // a cudaStream_t of the current device
  int architecture = 80;      // of the current device: 75, 80, 86, 89, 90, 100, 120
  int multiprocessors = 108;  // of the current device; may shape the grid, never the result
};

// Bytes of shared memory that a block may have.
constexpr int shared_limit(int architecture) {
  return architecture >= 90 && architecture < 120   ? 227 * 1024
         : architecture == 80 || architecture == 87 ? 163 * 1024
         : architecture >= 80                       ? 99 * 1024
                                                    : 64 * 1024;
}

// Blocks of so many bytes that the shared memory of a multiprocessor holds, where a block may have `limit`: 1 KiB goes
// with each. At least 1.
constexpr int blocks_in(int limit, int64_t bytes) {
  const int64_t blocks = (limit + 1024) / (bytes + 1024);
  return blocks > 1 ? static_cast<int>(blocks) : 1;
}

// The limit of what the code is compiled for, for launch bounds. The host asks for that of the device instead.
#if defined(__CUDA_ARCH__)
constexpr int kSharedLimit = shared_limit(__CUDA_ARCH__ / 10);
#else
constexpr int kSharedLimit = shared_limit(Launch{}.architecture);
#endif

// Scratch for whichever device needs most, by an architecture for each limit of shared memory.
template <class Bytes>
size_t most_bytes(const Bytes& bytes_on) {
  int64_t most = 0;
  for (int architecture : {80, 86, 90}) most = std::max<int64_t>(most, bytes_on(architecture));
  return static_cast<size_t>(most);
}

}  // namespace natten_core::cuda
