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

// The sanitizer itself sees no load whose result is partly unused: compilers narrow it before.
void check_access(const void* address, size_t bytes, Site site) {
  if (reinterpret_cast<uintptr_t>(address) % bytes != 0) {
    fail("at %s:%d address %p is not a multiple of %zu", base_name(site.file), site.line, address,
         bytes);
    stop();
  }
#if defined(__SANITIZE_ADDRESS__)
  if (__asan_region_is_poisoned(const_cast<void*>(address), bytes) == nullptr) return;
  fail("at %s:%d %zu bytes at %p reach beyond their array", base_name(site.file), site.line, bytes,
       address);
  stop();
#endif
}

}  // namespace simt
