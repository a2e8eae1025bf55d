// Shared memory and addresses.
#include <map>

#include "guarded.h"
#include "scheduler.h"

namespace simt {
namespace {

constexpr size_t kMaxSharedBytes = size_t{48} << 10;

struct SharedArray {
  const char* name;
  GuardedBytes memory;
};

std::map<const void*, SharedArray> shared_arrays;

}  // namespace

void reset_shared_memory() {
  const Unseen unseen;
  shared_arrays.clear();
}

void check_shared_memory() {
  for (const auto& [site, array] : shared_arrays) {
    if (!array.memory.intact()) fail("a thread wrote beside shared array %s", array.name);
  }
}

void* shared_memory(const void* key, const char* name, size_t bytes, size_t alignment) {
  const Unseen unseen;
  auto found = shared_arrays.find(key);
  if (found == shared_arrays.end()) {
    found = shared_arrays.emplace(key, SharedArray{name, GuardedBytes(bytes)}).first;
  }
  size_t total = 0;
  for (const auto& [site, array] : shared_arrays) total += array.memory.bytes();
  if (total > kMaxSharedBytes || alignment > kGuardBytes) {
    fail("shared array %s: %zu bytes in all, aligned to %zu; a block has %zu, aligned to %zu", name,
         total, alignment, kMaxSharedBytes, kGuardBytes);
    stop();
  }
  return found->second.memory.begin();
}

void check_aligned(const void* address, size_t alignment, Site site) {
  if (reinterpret_cast<uintptr_t>(address) % alignment == 0) return;
  fail("at %s:%d address %p is not a multiple of %zu", base_name(site.file), site.line, address,
       alignment);
  stop();
}

}  // namespace simt
