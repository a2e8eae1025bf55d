// Barriers and shuffles. A thread that comes to one waits; the last of those it names sets all free.
#include <vector>

#include "scheduler.h"

namespace simt {
namespace {

int at_barrier = 0;
// Where the threads of a warp, and last those of the block, gather before one of them frees all.
std::vector<uint64_t> gathering;

Thread& warp_mate(int lane) { return thread_at(current_thread() / kWarp * kWarp + lane); }

// PTX, shfl.sync: a lane whose source lies beyond its segment keeps its own value.
int source_lane(const Thread& self, int lane) {
  const int first = lane & ~(self.width - 1);
  const int last = first + self.width - 1;
  int source = lane;
  switch (self.kind) {
    case Shuffle::kXor: source = lane ^ self.operand; break;
    case Shuffle::kDown: source = lane + self.operand; break;
    case Shuffle::kUp: source = lane - self.operand; break;
    case Shuffle::kBallot: break;
    case Shuffle::kIndex: source = first + (self.operand & (self.width - 1)); break;
  }
  const bool before = self.kind == Shuffle::kUp && source < first;
  return before || source > last ? lane : source;
}

void exchange(const Thread& self) {
  uint64_t ballot = 0;
  for (int lane = 0; lane < kWarp; ++lane) {
    if (self.names(lane) && warp_mate(lane).bits != 0) ballot |= uint64_t{1} << lane;
  }
  for (int lane = 0; lane < kWarp; ++lane) {
    if (!self.names(lane)) continue;
    Thread& taker = warp_mate(lane);
    const int source = source_lane(taker, lane);
    if (source < 0 || !self.names(source)) {
      fail("at %s:%d lane %d reads lane %d, which is not in mask %08x", base_name(self.site.file),
           self.site.line, lane, source, self.mask);
      stop();
    }
    taker.result = self.kind == Shuffle::kBallot ? ballot : warp_mate(source).bits;
  }
}

// Wait for the lanes of the mask to come to the same collective.
void meet_lanes(State state, Site site) {
  Thread& self = thread_at(current_thread());
  self.state = state;
  self.site = site;
  if (!self.names(current_thread() % kWarp)) {
    fail("at %s:%d is not in its own mask %08x", base_name(site.file), site.line, self.mask);
    stop();
  }
  uint64_t* const point = &gathering[current_thread() / kWarp];
  arrive(point);
  bool complete = true;
  for (int lane = 0; lane < kWarp && complete; ++lane) {
    complete = !self.names(lane) || same_collective(self, warp_mate(lane));
  }
  if (complete) {
    meet(point);
    if (state == State::kShuffle) exchange(self);
    const int base = current_thread() / kWarp * kWarp;
    for (int lane = 0; lane < kWarp; ++lane) {
      if (self.names(lane)) make_ready(base + lane);
    }
  }
  yield();
}

}  // namespace

void reset_collectives() {
  const Unseen unseen;
  at_barrier = 0;
  gathering = std::vector<uint64_t>(block_threads() / kWarp + 1);
}

void block_barrier(Site site) {
  Thread& self = thread_at(current_thread());
  self.state = State::kBarrier;
  self.site = site;
  arrive(&gathering.back());
  if (++at_barrier == block_threads()) {
    for (int i = 0; i < block_threads(); ++i) {
      const Thread& other = thread_at(i);
      if (same_collective(self, other)) continue;
      fail("waits at %s:%d for thread %d, which waits at %s:%d", base_name(site.file), site.line, i,
           base_name(other.site.file), other.site.line);
      stop();
    }
    at_barrier = 0;
    meet(&gathering.back());
    for (int i = 0; i < block_threads(); ++i) make_ready(i);
  }
  yield();
}

void warp_barrier(unsigned mask, Site site) {
  Thread& self = thread_at(current_thread());
  self.mask = mask;
  self.kind = Shuffle::kIndex;
  self.width = kWarp;
  meet_lanes(State::kWarpBarrier, site);
}

uint64_t shuffle(Shuffle kind, unsigned mask, uint64_t bits, int operand, int width, Site site) {
  Thread& self = thread_at(current_thread());
  self.mask = mask;
  self.kind = kind;
  self.operand = operand;
  self.width = width;
  self.bits = bits;
  if (width < 1 || width > kWarp || (width & (width - 1)) != 0) {
    fail("at %s:%d shuffles with width %d", base_name(site.file), site.line, width);
    stop();
  }
  meet_lanes(State::kShuffle, site);
  return self.result;
}

}  // namespace simt
