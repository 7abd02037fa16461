#include "cuda/dispatch.h"

#include <cuda_runtime_api.h>

#include <atomic>
#include <cstdlib>
#include <stdexcept>

#include "cuda/band/band.h"
#include "cuda/box/box.h"
#include "cuda/dense/dense.h"
#include "cuda/device/check.h"
#include "cuda/device/launch.h"
#include "cuda/simt/simt.h"
#include "cuda/simt/two_stage.h"

namespace natten_core::cuda {
namespace {

// The one family allowed; kNone: any.
std::atomic<Family>& only() {
  static std::atomic<Family> family = [] {
    const char* wanted = std::getenv("NATTEN_CORE_CUDA_FAMILY");
    return wanted == nullptr || *wanted == '\0' ? Family::kNone : family_of(wanted);
  }();
  return family;
}

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
  return value;
}

std::string version(int number) { return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10); }

Devices find_devices() {
  Devices found;
  found.runtime = CUDART_VERSION;
  int count = 0;
  if (cudaDriverGetVersion(&found.driver) != cudaSuccess) found.driver = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  cudaGetLastError();
  if (error == cudaErrorInsufficientDriver) {
    found.obstacle = found.driver == 0
                         ? "no device: this machine has no NVIDIA driver"
                         : "driver too old: it supports CUDA " + version(found.driver) + ", and this build needs " +
                               version(found.runtime) + "; update the driver, or build natten-core with an older nvcc";
  } else if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0)) {
    found.obstacle = "no device: the driver shows none (see nvidia-smi and CUDA_VISIBLE_DEVICES)";
  } else if (error != cudaSuccess) {
    found.obstacle = std::string("no device: ") + cudaGetErrorString(error);
  }
  for (int i = 0; found.obstacle.empty() && i < count; ++i) {
    cudaDeviceProp properties;
    check(cudaGetDeviceProperties(&properties, i), "cudaGetDeviceProperties");
    const int architecture =
        10 * attribute(cudaDevAttrComputeCapabilityMajor, i) + attribute(cudaDevAttrComputeCapabilityMinor, i);
    found.devices.push_back({properties.name, architecture, attribute(cudaDevAttrMultiProcessorCount, i),
                             runs_on(architectures_built(), architecture)});
  }
  return found;
}

const Device& device_at(int index) {
  const Devices& all = devices();
  if (!all.obstacle.empty()) throw Unsupported(all.obstacle);
  if (index < 0 || index >= static_cast<int>(all.devices.size()))
    throw std::invalid_argument("no cuda device " + std::to_string(index));
  return all.devices[static_cast<size_t>(index)];
}

Launch prepare(int device, void* stream) {
  const Device& properties = device_at(device);
  // torch has its own copy of the runtime, so that its notion of the current device is not ours.
  check(cudaSetDevice(device), "cudaSetDevice");
  return {stream, properties.architecture, properties.multiprocessors};
}

template <class Work>
void reporting(const Problem& problem, Family family, const char* direction, const Work& work) {
  const auto told = [&](const std::runtime_error& error, const char* more) {
    return std::string("natten_core cuda (") + name(family) + ") " + direction + " failed: " + error.what() + more +
           "; the problem: " + describe(problem);
  };
  try {
    work();
  } catch (const OutOfMemory& error) {
    throw OutOfMemory(told(error, ""));
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(told(error, " (or an earlier kernel did)"));
  }
}

// Calls run(family, launch) with the family that is chosen, or returns the head_dim of the copies that are worth making
// first.
template <class Args, class Run>
int64_t run_chosen(const Args& args, const Problem& problem, int device, void* stream, bool tf32, bool copies,
                   const char* direction, const Run& run) {
  const Facts facts = facts_of(device, tf32);
  const Family family = choose(args, facts);
  if (!copies && !has_tensor_cores(family))
    if (const int64_t head_dim = copies_head_dim(args, facts)) return head_dim;
  if (family == Family::kNone) {
    std::string reasons = "no cuda kernel can run this. They do not support";
    for (const Rejection& rejection : explain(args, facts).passed_over)
      reasons += std::string(" (") + name(rejection.family) + ") " + rejection.reason + ";";
    throw Unsupported(reasons + " the problem: " + describe(problem));
  }
  reporting(problem, family, direction, [&] { run(family, prepare(device, stream)); });
  return 0;
}

// Runs `work`, of the two-stage form, with what it needs to start kernels.
template <class Work>
void run_stage(const Problem& problem, int device, void* stream, const char* direction, const Work& work) {
  if (const char* reason = unsupported(Family::kSimt, problem, facts_of(device, false)))
    throw Unsupported(std::string("no cuda kernel can run this in two stages. They do not support (simt) ") + reason +
                      "; the problem: " + describe(problem));
  reporting(problem, Family::kSimt, direction, [&] { work(prepare(device, stream)); });
}

void* workspace_of(size_t bytes, const std::function<void*(size_t)>& allocate) {
  return bytes == 0 ? nullptr : allocate(bytes);
}

}  // namespace

const Devices& devices() {
  static const Devices found = find_devices();
  return found;
}

const char* architectures_built() { return NATTEN_CUDA_ARCHITECTURES; }
const char* tensor_core_architectures_built() { return NATTEN_CUDA_TENSOR_CORE_ARCHITECTURES; }

void use_only(const std::string& wanted) { only() = wanted.empty() ? Family::kNone : family_of(wanted); }

Facts facts_of(int device, bool tf32) {
  const int architecture = device_at(device).architecture;
  return {architecture, runs_on(tensor_core_architectures_built(), architecture), only(), tf32};
}

int64_t forward(const ForwardArgs& args, int device, void* stream, bool tf32, bool copies) {
  const auto run = [&](Family family, const Launch& launch) {
    switch (family) {
      case Family::kDense: return dense::forward(args, launch);
      case Family::kBand: return band::forward(args, launch);
      case Family::kBox: return box::forward(args, launch);
      case Family::kSimt: return simt::forward(args, launch);
      default: throw std::logic_error("a family without kernels was chosen");
    }
  };
  return run_chosen(args, args.problem, device, stream, tf32, copies, "forward", run);
}

int64_t backward(const BackwardArgs& args, int device, void* stream, bool tf32, bool copies,
                 const std::function<void*(size_t)>& allocate) {
  const auto workspace = [&](size_t bytes) { return workspace_of(bytes, allocate); };
  const auto run = [&](Family family, const Launch& launch) {
    switch (family) {
      case Family::kDense: return dense::backward(args, workspace(dense::backward_workspace(args)), launch);
      case Family::kBand: return band::backward(args, workspace(band::backward_workspace(args)), launch);
      case Family::kBox: return box::backward(args, workspace(box::backward_workspace(args)), launch);
      case Family::kSimt: return simt::backward(args, workspace(simt::backward_workspace(args)), launch);
      default: throw std::logic_error("a family without kernels was chosen");
    }
  };
  return run_chosen(args, args.forward.problem, device, stream, tf32, copies, "backward", run);
}

void qk(const QkArgs& args, int device, void* stream) {
  run_stage(args.problem, device, stream, "qk", [&](const Launch& launch) { simt::qk_forward(args, launch); });
}

void qk_backward(const QkBackwardArgs& args, int device, void* stream, const std::function<void*(size_t)>& allocate) {
  run_stage(args.forward.problem, device, stream, "qk backward", [&](const Launch& launch) {
    simt::qk_backward(args, workspace_of(simt::qk_backward_workspace(args), allocate), launch);
  });
}

void av(const AvArgs& args, int device, void* stream) {
  run_stage(args.problem, device, stream, "av", [&](const Launch& launch) { simt::av_forward(args, launch); });
}

void av_backward(const AvBackwardArgs& args, int device, void* stream, const std::function<void*(size_t)>& allocate) {
  run_stage(args.forward.problem, device, stream, "av backward", [&](const Launch& launch) {
    simt::av_backward(args, workspace_of(simt::av_backward_workspace(args), allocate), launch);
  });
}

}  // namespace natten_core::cuda
