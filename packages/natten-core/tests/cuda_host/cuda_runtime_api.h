// The CUDA runtime as far as the host side calls it, on the CPU: devices that a test makes up, and calls that fail when
// it says so.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#define CUDART_VERSION 13000

enum cudaError_t {  // with the runtime's numbers
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorIllegalAddress = 700,
};
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrComputeCapabilityMinor
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
struct cudaDeviceProp {
  char name[256];
};

namespace fake {

struct Runtime {
  int driver = 13000;
  std::vector<int> architectures{90, 80};  // of the devices
  int current = 0;
  cudaError_t pending = cudaSuccess;  // what the next cudaGetLastError tells
  std::map<std::string, cudaError_t> failures;  // by the name of a call, "launch" among them
  std::vector<std::pair<int, void*>> launches;  // device and stream of every kernel
};
inline Runtime& runtime() {
  static Runtime one;
  return one;
}

inline cudaError_t called(const char* name) {
  const auto found = runtime().failures.find(name);
  return found == runtime().failures.end() ? cudaSuccess : runtime().pending = found->second;
}

template <class Run>
void launch(void* stream, const Run& run) {
  runtime().launches.emplace_back(runtime().current, stream);
  if (called("launch") == cudaSuccess) run();
}

}  // namespace fake

inline cudaError_t cudaGetLastError() { return std::exchange(fake::runtime().pending, cudaSuccess); }
inline const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorIllegalAddress: return "an illegal memory access was encountered";
    default: return "an error";
  }
}
inline cudaError_t cudaDriverGetVersion(int* version) {
  *version = fake::runtime().driver;
  return fake::called("cudaDriverGetVersion");
}
inline cudaError_t cudaGetDeviceCount(int* count) {
  *count = static_cast<int>(fake::runtime().architectures.size());
  return fake::called("cudaGetDeviceCount");
}
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {"made up"};
  return fake::called("cudaGetDeviceProperties");
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int device) {
  const int architecture = fake::runtime().architectures[static_cast<size_t>(device)];
  *value = which == cudaDevAttrComputeCapabilityMajor   ? architecture / 10
           : which == cudaDevAttrComputeCapabilityMinor ? architecture % 10
                                                        : 2;
  return fake::called("cudaDeviceGetAttribute");
}
inline cudaError_t cudaGetDevice(int* device) {
  *device = fake::runtime().current;
  return fake::called("cudaGetDevice");
}
inline cudaError_t cudaSetDevice(int device) {
  fake::runtime().current = device;
  return fake::called("cudaSetDevice");
}
inline cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) {
  return fake::called("cudaFuncSetAttribute");
}
