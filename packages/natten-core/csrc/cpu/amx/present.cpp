#include "present.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>

namespace natten_core::cpu {
namespace {

bool processor_has_tiles() {
  constexpr uint32_t kBf16 = 1u << 22, kTile = 1u << 24;
  uint32_t a, b, c, d;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & kBf16) && (d & kTile);
}

bool system_saves_tiles() {
  constexpr uint32_t kOsXsave = 1u << 27, kTileState = 3u << 17;  // the configuration and the data
  uint32_t a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & kOsXsave)) return false;
  asm("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
  return (a & kTileState) == kTileState;
}

// Zero, or what went wrong.
int ask_for_tiles() {
  constexpr int kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequest, kTileData) == 0 ? 0 : errno;
}

std::string find_missing() {
  if (!processor_has_tiles()) return "the processor has no AMX-BF16";
  if (!system_saves_tiles()) return "the operating system does not enable AMX";
  if (const int error = ask_for_tiles()) return std::string("Linux gives no permission for AMX: ") + strerror(error);
  return "";
}

}  // namespace

const std::string& amx_missing() {
  static const std::string missing = find_missing();
  return missing;
}

}  // namespace natten_core::cpu
