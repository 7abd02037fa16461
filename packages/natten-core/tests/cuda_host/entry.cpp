// Compiled once for each family: -DFAMILY=band -DFAMILY_HEADER='"cuda/band/band.h"'.
#include "entry.h"

#include FAMILY_HEADER

#define QUOTED(name) #name
#define NAME_OF(name) QUOTED(name)

namespace natten_core::cuda::FAMILY {

// What is only declared so far is null here rather than an error of the linker.
[[gnu::weak]] const char* unsupported(const Problem&);
[[gnu::weak]] void forward(const ForwardArgs&, const Launch&);
[[gnu::weak]] size_t backward_workspace(const BackwardArgs&);
[[gnu::weak]] void backward(const BackwardArgs&, void*, const Launch&);

static const Entry kEntry = {NAME_OF(FAMILY), &unsupported, &forward, &backward_workspace, &backward};

}  // namespace natten_core::cuda::FAMILY

const Entry& entry() { return natten_core::cuda::FAMILY::kEntry; }
