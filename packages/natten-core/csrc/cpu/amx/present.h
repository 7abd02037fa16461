// Whether this process may use AMX.
#pragma once

#include <string>

namespace natten_core::cpu {

// What stands in the way of tiles of bf16, or nothing. The first call asks Linux for permission, which it gives to the
// whole process and for good; threads then get their tile registers as they first use them.
const std::string& amx_missing();

}  // namespace natten_core::cpu
