#include "gradient_memory.h"

#if defined(__linux__)

#include <sys/mman.h>

#include <mutex>
#include <new>
#include <utility>

namespace entropy_ext {
namespace {

constexpr std::uintptr_t kHugePage = std::uintptr_t{2} << 20;

struct Block {
  void* begin = nullptr;
  size_t bytes = 0;
};

std::mutex kept_lock;
Block kept;

void unmap(const Block& block) {
  if (block.begin != nullptr) munmap(block.begin, block.bytes);
}

Block map(size_t bytes) {
  void* const begin =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (begin == MAP_FAILED) throw std::bad_alloc();
  // A hint: where it is refused, nothing but the time changes.
  madvise(begin, bytes, MADV_HUGEPAGE);
  return {begin, bytes};
}

// The kept block if it has that size.
Block take_kept(size_t bytes) {
  const std::lock_guard<std::mutex> guard(kept_lock);
  if (kept.bytes != bytes) return {};
  const Block block = kept;
  kept = {};
  return block;
}

}  // namespace

GradientMemory::GradientMemory(int64_t bytes) : bytes_(bytes) {
  // A huge page more than asked for, so that the whole of it can lie on huge pages.
  mapped_ = (static_cast<size_t>(bytes) + 2 * kHugePage - 1) & ~(kHugePage - 1);
  Block block = take_kept(mapped_);
  if (block.begin == nullptr) block = map(mapped_);
  begin_ = block.begin;
  const auto address = reinterpret_cast<std::uintptr_t>(begin_);
  data_ = reinterpret_cast<void*>((address + kHugePage - 1) & ~(kHugePage - 1));
}

GradientMemory::~GradientMemory() {
  Block block{begin_, mapped_};
  // From here on the system may take the pages back whenever memory is short; those it has not
  // taken when they are next written need no zeroing.
  if (madvise(block.begin, block.bytes, MADV_FREE) == 0) {
    const std::lock_guard<std::mutex> guard(kept_lock);
    std::swap(block, kept);
  }
  unmap(block);
}

}  // namespace entropy_ext

#endif
