#include "../token_stats.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace entropy_ext {

// A gradient of hundreds of megabytes is fresh memory each time, and the page faults of its first
// touch cost several times the arithmetic. Asking for huge pages first is a hint: where it is
// refused, nothing but the time changes.
void advise_huge_pages(void* begin, int64_t bytes) {
#if defined(__linux__)
  constexpr std::uintptr_t kHugePage = std::uintptr_t{2} << 20;
  const auto first = (reinterpret_cast<std::uintptr_t>(begin) + kHugePage - 1) & ~(kHugePage - 1);
  const auto last = (reinterpret_cast<std::uintptr_t>(begin) + bytes) & ~(kHugePage - 1);
  if (last > first) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  (void)begin, (void)bytes;
#endif
}

}  // namespace entropy_ext
