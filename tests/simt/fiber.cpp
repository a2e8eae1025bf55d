#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(SIMT_TSAN)
#include <sanitizer/tsan_interface.h>
// In the run-time library, but in no header.
extern "C" void AnnotateIgnoreReadsBegin(const char* file, int line);
extern "C" void AnnotateIgnoreReadsEnd(const char* file, int line);
extern "C" void AnnotateIgnoreWritesBegin(const char* file, int line);
extern "C" void AnnotateIgnoreWritesEnd(const char* file, int line);
#endif

namespace simt {
namespace {

// Room for a kernel's local variables and, under the sanitizers, their padding.
constexpr size_t kStackBytes = size_t{256} << 10;
constexpr size_t kGuardBytes = size_t{64} << 10;

Fiber* beginning = nullptr;

}  // namespace

#if !defined(SIMT_USES_UCONTEXT)
// Save what the System V ABI lets a callee expect, change stacks, restore. swapcontext() would do,
// but enters the kernel for the signal mask on each of several hundred thousand switches.
extern "C" void simt_switch_stack(void** save, void* load);
asm(R"(
.text
.type simt_switch_stack, @function
simt_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size simt_switch_stack, .-simt_switch_stack
)");
#endif

Fiber::Fiber() {
  void* const memory = mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  mprotect(memory, kGuardBytes, PROT_NONE);
  stack_ = static_cast<char*>(memory) + kGuardBytes;
}

Fiber::~Fiber() {
#if defined(SIMT_TSAN)
  if (tsan_own_ != nullptr) __tsan_destroy_fiber(tsan_own_);
#endif
  munmap(stack_ - kGuardBytes, kGuardBytes + kStackBytes);
}

void Fiber::start(void (*entry)()) {
  entry_ = entry;
#if defined(__SANITIZE_ADDRESS__)
  // A fiber that was abandoned halfway leaves red zones behind.
  __asan_unpoison_memory_region(stack_, kStackBytes);
#endif
#if defined(SIMT_TSAN)
  if (tsan_own_ == nullptr) tsan_own_ = __tsan_create_fiber(0);
#endif
#if defined(SIMT_USES_UCONTEXT)
  getcontext(&own_);
  own_.uc_stack.ss_sp = stack_;
  own_.uc_stack.ss_size = kStackBytes;
  own_.uc_link = nullptr;
  makecontext(&own_, &Fiber::begin, 0);
#else
  // Six registers, the address to return to, and the caller's address that a function expects
  // eight bytes off a multiple of sixteen.
  constexpr int kRegisters = 6;
  uintptr_t* top = reinterpret_cast<uintptr_t*>(stack_ + kStackBytes);
  *--top = 0;
  *--top = reinterpret_cast<uintptr_t>(&Fiber::begin);
  for (int i = 0; i < kRegisters; ++i) *--top = 0;
  own_ = top;
#endif
}

void Fiber::begin() {
  Fiber* const self = beginning;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &self->outside_stack_, &self->outside_size_);
#endif
  meet(&self->released_);
  self->entry_();
  std::abort();
}

void Fiber::release() { arrive(&released_); }

void Fiber::resume() {
  beginning = this;
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(&fake_stack, stack_, kStackBytes);
#endif
#if defined(SIMT_TSAN)
  tsan_outside_ = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(tsan_own_, __tsan_switch_to_fiber_no_sync);
#endif
#if defined(SIMT_USES_UCONTEXT)
  swapcontext(&outside_, &own_);
#else
  simt_switch_stack(&outside_, own_);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
}

void Fiber::suspend() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&fake_stack_, outside_stack_, outside_size_);
#endif
#if defined(SIMT_TSAN)
  __tsan_switch_to_fiber(tsan_outside_, __tsan_switch_to_fiber_no_sync);
#endif
#if defined(SIMT_USES_UCONTEXT)
  swapcontext(&own_, &outside_);
#else
  simt_switch_stack(&own_, outside_);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack_, &outside_stack_, &outside_size_);
#endif
  meet(&released_);
}

void Fiber::leave() {
  suspend();
  std::abort();
}

void arrive([[maybe_unused]] void* point) {
#if defined(SIMT_TSAN)
  __tsan_release(point);
#endif
}

void meet([[maybe_unused]] void* point) {
#if defined(SIMT_TSAN)
  __tsan_acquire(point);
#endif
}

Unseen::Unseen() {
#if defined(SIMT_TSAN)
  AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
  AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
#endif
}

Unseen::~Unseen() {
#if defined(SIMT_TSAN)
  AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
  AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
#endif
}

}  // namespace simt
