// A stack and the place where it was left.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emu {

#if defined(__x86_64__)
// Ten times faster than swapcontext, which makes a system call. noipa and the memory clobber: the compiler would
// conclude that the call touches no memory.
__attribute__((naked, noinline, noipa)) inline void switch_stacks(void** /*left at*/, void* /*to*/) {
  asm volatile(
      "pushq %%rbp\n pushq %%rbx\n pushq %%r12\n pushq %%r13\n pushq %%r14\n pushq %%r15\n"
      "movq %%rsp,(%%rdi)\n movq %%rsi,%%rsp\n"
      "popq %%r15\n popq %%r14\n popq %%r13\n popq %%r12\n popq %%rbx\n popq %%rbp\n ret" ::
          : "memory");
}

struct Context {
  void* stack_pointer = nullptr;
  void prepare(char* stack, size_t bytes, void (*entry)()) {
    const uintptr_t top = (reinterpret_cast<uintptr_t>(stack) + bytes) & ~uintptr_t{15};
    void** frame = reinterpret_cast<void**>(top - 64);
    std::fill(frame, frame + 8, nullptr);
    frame[6] = reinterpret_cast<void*>(entry);  // what ret pops; leaves the stack as a call would
    stack_pointer = frame;
  }
};
inline void swap(Context& from, Context& to) { switch_stacks(&from.stack_pointer, to.stack_pointer); }
#else
struct Context {
  ucontext_t context;
  void prepare(char* stack, size_t bytes, void (*entry)()) {
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = bytes;
    context.uc_link = nullptr;
    makecontext(&context, entry, 0);
  }
};
inline void swap(Context& from, Context& to) { swapcontext(&from.context, &to.context); }
#endif

}  // namespace emu
