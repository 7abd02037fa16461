// The entry points of one family, as its header declares them. Null: declared, but not in the sources yet.
#pragma once

#include <cstddef>

#include "cuda/device/launch.h"
#include "natten_core/problem.h"

struct Entry {
  const char* family;
  const char* (*unsupported)(const natten_core::Problem&);
  void (*forward)(const natten_core::ForwardArgs&, const natten_core::cuda::Launch&);
  size_t (*backward_workspace)(const natten_core::BackwardArgs&);
  void (*backward)(const natten_core::BackwardArgs&, void* workspace, const natten_core::cuda::Launch&);
};

const Entry& entry();
