// What a run of the emulator is asked to do, and what it has to say.
#pragma once

#include <atomic>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <utility>

namespace emu {

// A place in a kernel.
struct Site {
  const char* file = "";
  int line = 0;
  static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
  bool operator==(const Site& o) const { return line == o.line && (file == o.file || !std::strcmp(file, o.file)); }
  bool operator<(const Site& o) const { return line != o.line ? line < o.line : std::strcmp(file, o.file) < 0; }
};

struct Options {
  unsigned seed = 0;          // order of threads: 0 ascending, 1 descending, else shuffled; odd: blocks descending
  unsigned threads = 2;       // of the CPU, among which blocks are spread
  bool mma_truncate = false;  // sums of products are rounded towards zero
  float jitter = 0;           // relative error of ex2, lg2 and rcp
  bool count_banks = false;   // wavefronts of shared memory accesses, by place
};
inline Options& options() {
  static Options o;
  return o;
}

struct Stats {
  std::atomic<uint64_t> mma{0}, switches{0}, blocks{0};
};
inline Stats& stats() {
  static Stats s;
  return s;
}

struct Report {
  std::string text;
  uint64_t count = 0;
};

// Wavefronts: passes over the 32 banks. The least is that of a layout without conflicts.
struct Wavefronts {
  uint64_t accesses = 0, wavefronts = 0, least = 0;
};

struct Journal {
  std::mutex mutex;
  std::map<std::pair<std::string, Site>, Report> reports;              // by kind and place
  std::map<std::pair<std::string, Site>, Wavefronts> wavefronts;       // by operation and place
  void clear() {
    const std::lock_guard<std::mutex> lock(mutex);
    reports.clear();
    wavefronts.clear();
  }
};
inline Journal& journal() {
  static Journal j;
  return j;
}

__attribute__((format(printf, 3, 4))) inline void report(const char* kind, Site site, const char* format, ...) {
  char text[256];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  const std::lock_guard<std::mutex> lock(journal().mutex);
  Report& r = journal().reports[{kind, site}];
  if (r.count++ == 0) r.text = text;
}

}  // namespace emu
