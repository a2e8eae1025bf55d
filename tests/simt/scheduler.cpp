// Runs the blocks of a grid and the threads of a block in a random order.
#include "scheduler.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "random.h"
#include "simt_control.h"

uint3 threadIdx;
uint3 blockIdx;
dim3 blockDim;
dim3 gridDim;

namespace simt {
namespace {

constexpr int kMaxThreads = 1024;
// Sets of fibers that blocks take by turns. The thread sanitizer takes a fiber for one thread all
// along: who has met it at a barrier has, so it seems, waited for all that it did in earlier blocks,
// and blocks that share a fiber no longer race. So two blocks in a row share none.
#if defined(SIMT_TSAN)
constexpr int kFiberSets = 2;
#else
constexpr int kFiberSets = 1;
#endif

Random schedule{0};
std::vector<std::unique_ptr<Thread>> threads;
const std::function<void()>* kernel_body = nullptr;
int thread_count = 0;
int current = 0;
int gone = 0;
char error[512];

// Threads that can go on. In half of the blocks those of one warp are kept apart, to run ahead of
// the others or after them wherever the kernel does not make them wait; else `odd_warp` is −1.
std::vector<int> ready;
std::vector<int> ready_odd;
int odd_warp = -1;
bool odd_first = false;

int draw_ready() {
  std::vector<int>& first = odd_first ? ready_odd : ready;
  std::vector<int>& second = odd_first ? ready : ready_odd;
  std::vector<int>& from = first.empty() ? second : first;
  if (from.empty()) return -1;
  std::swap(from[schedule.below(from.size())], from.back());
  const int thread = from.back();
  from.pop_back();
  return thread;
}

void thread_main() {
  (*kernel_body)();
  arrive(&gone);
  threads[current]->state = State::kGone;
  ++gone;
  stop();
}

// Nobody can go on, yet not all have left: say who waits for whom.
void explain_deadlock() {
  for (int waiting = 0; waiting < thread_count; ++waiting) {
    const Thread& self = *threads[waiting];
    if (self.state == State::kGone) continue;
    for (int other = 0; other < thread_count; ++other) {
      const Thread& missing = *threads[other];
      const bool awaited = self.state == State::kBarrier ||
                           (other / kWarp == waiting / kWarp && self.names(other % kWarp));
      if (!awaited || same_collective(self, missing)) continue;
      current = waiting;
      const char* const file = base_name(self.site.file);
      if (missing.state == State::kGone) {
        fail("waits at %s:%d for thread %d, which has left the kernel", file, self.site.line, other);
      } else {
        fail("waits at %s:%d for thread %d, which waits at %s:%d", file, self.site.line, other,
             base_name(missing.site.file), missing.site.line);
      }
      return;
    }
  }
}

void run_block(unsigned block) {
  blockIdx = uint3{block, 0, 0};
  reset_collectives();
  reset_shared_memory();
  std::rotate(threads.begin(), threads.end() - thread_count, threads.end());
  // Nor let a fiber be the same thread each time.
  std::rotate(threads.begin(), threads.begin() + schedule.below(thread_count),
              threads.begin() + thread_count);
  ready.clear();
  ready_odd.clear();
  gone = 0;
  const uint64_t coins = schedule.next();
  odd_warp = coins % 2 == 0 ? -1 : static_cast<int>(schedule.below(thread_count / kWarp));
  odd_first = coins / 2 % 2 == 0;
  for (int i = 0; i < thread_count; ++i) {
    threads[i]->fiber.start(thread_main);
    make_ready(i);
  }
  while (error[0] == '\0' && (current = draw_ready()) >= 0) {
    threadIdx = uint3{static_cast<unsigned>(current), 0, 0};
    threads[current]->fiber.resume();
  }
  if (error[0] == '\0' && gone != thread_count) explain_deadlock();
  check_shared_memory();
}

}  // namespace

bool same_collective(const Thread& a, const Thread& b) {
  if (a.state != b.state || a.site.line != b.site.line || strcmp(a.site.file, b.site.file) != 0) {
    return false;
  }
  return a.state == State::kBarrier || (a.mask == b.mask && a.kind == b.kind && a.width == b.width);
}

int current_thread() { return current; }
int block_threads() { return thread_count; }
Thread& thread_at(int index) { return *threads[index]; }

void make_ready(int thread) {
  threads[thread]->state = State::kReady;
  threads[thread]->fiber.release();
  (thread / kWarp == odd_warp ? ready_odd : ready).push_back(thread);
}

void yield() { threads[current]->fiber.suspend(); }

void stop() { threads[current]->fiber.leave(); }

void fail(const char* format, ...) {
  if (error[0] != '\0') return;
  const Unseen unseen;
  int used = std::snprintf(error, sizeof(error), "block %u", blockIdx.x);
  if (current >= 0) {
    used += std::snprintf(error + used, sizeof(error) - used, ", thread %d", current);
  }
  used += std::snprintf(error + used, sizeof(error) - used, ": ");
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(error + used, sizeof(error) - used, format, arguments);
  va_end(arguments);
}

const char* base_name(const char* path) {
  const char* const slash = std::strrchr(path, '/');
  return slash == nullptr ? path : slash + 1;
}

void set_seed(uint64_t seed) { schedule.state = seed; }

const char* run_grid(int64_t grid, int block, const std::function<void()>& kernel) {
  if (grid < 1 || grid > INT32_MAX) return "grid size is not in [1, 2^31 - 1]";
  if (block < kWarp || block > kMaxThreads || block % kWarp != 0) {
    return "block size is not a multiple of 32 in [32, 1024]";
  }
  gridDim = dim3(static_cast<unsigned>(grid));
  blockDim = dim3(static_cast<unsigned>(block));
  thread_count = block;
  const size_t fibers = static_cast<size_t>(block) * kFiberSets;
  while (threads.size() < fibers) threads.push_back(std::make_unique<Thread>());
  kernel_body = &kernel;
  error[0] = '\0';

  std::vector<unsigned> order(grid);
  std::iota(order.begin(), order.end(), 0u);
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[schedule.below(i)]);
  for (const unsigned index : order) {
    run_block(index);
    if (error[0] != '\0') return error;
  }
  meet(&gone);
  return nullptr;
}

}  // namespace simt
