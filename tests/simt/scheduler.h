// The threads of the block that runs, as the collectives see them.
#pragma once

#include <cstdint>

#include "fiber.h"
#include "simt.h"

namespace simt {

constexpr int kWarp = 32;

enum class State { kReady, kBarrier, kWarpBarrier, kShuffle, kGone };

struct Thread {
  Fiber fiber;
  State state;
  Site site;  // where it waits, and with what
  unsigned mask;
  Shuffle kind;
  int operand;
  int width;
  uint64_t bits;    // given
  uint64_t result;  // taken

  bool names(int lane) const { return (mask >> lane & 1u) != 0; }
};

// Whether both wait at the same place for the same threads.
bool same_collective(const Thread& a, const Thread& b);

int current_thread();
int block_threads();
Thread& thread_at(int index);

void make_ready(int thread);
// Let others run; returns once the current thread is ready and drawn again.
void yield();

// Give up on the block: launch() will return "block b, thread t: " and this text. The first failure
// of a block counts. stop() does the same to the thread that calls it, which never goes on.
void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));
[[noreturn]] void stop();

const char* base_name(const char* path);

// Collectives and shared memory, at the beginning and at the end of a block.
void reset_collectives();
void reset_shared_memory();
void check_shared_memory();

}  // namespace simt
