// Stacks that take turns on one operating-system thread, with the sanitizers told of every switch.
#pragma once

#include <cstddef>
#include <cstdint>

#if !defined(__x86_64__) || defined(SIMT_UCONTEXT)
#define SIMT_USES_UCONTEXT 1
#include <ucontext.h>
#endif

namespace simt {

class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Forget what this fiber was doing; the next resume() calls entry(), which must not return.
  void start(void (*entry)());

  // What the caller did until now happens before what the fiber does after its next suspension.
  void release();

  // From outside any fiber: run until the fiber calls suspend() or leave().
  void resume();
  // From inside: back to whoever resumed this fiber.
  void suspend();
  [[noreturn]] void leave();

 private:
  static void begin();

  char* stack_;
  void (*entry_)() = nullptr;
#if defined(SIMT_USES_UCONTEXT)
  ucontext_t own_;
  ucontext_t outside_;
#else
  void* own_ = nullptr;
  void* outside_ = nullptr;
#endif
  void* fake_stack_ = nullptr;
  const void* outside_stack_ = nullptr;
  size_t outside_size_ = 0;
  void* tsan_own_ = nullptr;
  void* tsan_outside_ = nullptr;
  uint64_t released_ = 0;
};

// Everything before arrive(p) happens before what follows meet(p). Switches alone order nothing, so
// that the thread sanitizer sees what CUDA threads may rely on and no more.
void arrive(void* point);
void meet(void* point);

// While one lives, the thread sanitizer overlooks what the emulation itself does to memory.
struct Unseen {
  Unseen();
  ~Unseen();
};

}  // namespace simt
