// Runs problems on the family that the plan chooses. Only in builds with CUDA.
#pragma once

#include <cstddef>
#include <exception>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "cuda/device/launch.h"
#include "cuda/plan.h"
#include "natten_core/problem.h"
#include "natten_core/two_stage.h"

namespace natten_core::cuda {

// No family can run the problem.
struct Unsupported : std::exception {
  explicit Unsupported(std::string why) : text(std::move(why)) {}
  const char* what() const noexcept override { return text.c_str(); }
  std::string text;
};

struct Device {
  std::string name;
  int architecture = 0;  // 90 for compute capability 9.0
  int multiprocessors = 0;
  bool built_for = false;  // whether this build has kernels for it
};

struct Devices {
  int runtime = 0;       // version of the CUDA runtime in this build, as 13000
  int driver = 0;        // latest version that the driver supports; 0 without a driver
  std::string obstacle;  // why there are none, empty where there are some
  std::vector<Device> devices;
};

// Asked of the driver once. Creates no context.
const Devices& devices();

// Lists as `runs_on` takes them.
const char* architectures_built();
const char* tensor_core_architectures_built();

// The one family to use, from now on and in every thread, or all where `name` is empty. For tests.
void use_only(const std::string& name);

// What the plan is told on this device.
Facts facts_of(int device, bool tf32);

// Pointers are of memory on `device`, `stream` is a stream of it. `tf32`: whether fp32 may be multiplied in TF32. The
// work is queued, not awaited.
// Where copies of the tensors are worth making, see `copies_head_dim`, and they are not `copies` themselves, nothing
// is done and the head_dim of such copies returned; else 0.
// All throw Unsupported where no family can run the problem, else OutOfMemory or another std::runtime_error with the
// problem in it.
int64_t forward(const ForwardArgs& args, int device, void* stream, bool tf32, bool copies);
// `allocate` returns device memory, aligned to 512 bytes, that may be reused once what is queued until then is done.
int64_t backward(const BackwardArgs& args, int device, void* stream, bool tf32, bool copies,
                 const std::function<void*(size_t)>& allocate);

// The two-stage form, which the simt family alone has.
void qk(const QkArgs& args, int device, void* stream);
void qk_backward(const QkBackwardArgs& args, int device, void* stream, const std::function<void*(size_t)>& allocate);
void av(const AvArgs& args, int device, void* stream);
void av_backward(const AvBackwardArgs& args, int device, void* stream, const std::function<void*(size_t)>& allocate);

}  // namespace natten_core::cuda
