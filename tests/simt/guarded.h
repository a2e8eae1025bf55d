// Memory as a kernel should find it: unwritten bytes that are NaN, and a red zone on either side.
#pragma once

#include <cstddef>
#include <memory>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace simt {

// Of the red zones, and the alignment of what lies between them.
constexpr size_t kGuardBytes = 64;
// Bytes that are a quiet NaN in all four floating-point formats, with a payload that arithmetic on
// other numbers does not make; negative in every integer.
constexpr unsigned char kPoison[] = {0xfd, 0xff};

// What is read beside the array is NaN; what is written there, intact() reports. The address
// sanitizer stops at either. `offset` bytes put the array off the boundary it would begin at.
class GuardedBytes {
 public:
  explicit GuardedBytes(size_t bytes, size_t offset = 0)
      : bytes_(bytes),
        before_(kGuardBytes + offset),
        lines_((before_ + bytes + kGuardBytes - 1) / kGuardBytes + 1),
        memory_(new Line[lines_]) {
    for (size_t i = 0; i < lines_ * sizeof(Line); ++i) all()[i] = kPoison[i % 2];
#if defined(__SANITIZE_ADDRESS__)
    __asan_poison_memory_region(memory_.get(), before_);
    __asan_poison_memory_region(begin() + bytes, lines_ * sizeof(Line) - before_ - bytes);
#endif
  }

  ~GuardedBytes() {
#if defined(__SANITIZE_ADDRESS__)
    if (memory_ != nullptr) __asan_unpoison_memory_region(memory_.get(), lines_ * sizeof(Line));
#endif
  }

  GuardedBytes(GuardedBytes&&) = default;

  unsigned char* begin() const { return all() + before_; }
  size_t bytes() const { return bytes_; }

  bool intact() const {
#if !defined(__SANITIZE_ADDRESS__)
    for (size_t i = 0; i < lines_ * sizeof(Line); ++i) {
      const bool inside = i >= before_ && i < before_ + bytes_;
      if (!inside && all()[i] != kPoison[i % 2]) return false;
    }
#endif
    return true;
  }

 private:
  struct alignas(kGuardBytes) Line {
    unsigned char bytes[kGuardBytes];
  };

  unsigned char* all() const { return reinterpret_cast<unsigned char*>(memory_.get()); }

  size_t bytes_;
  size_t before_;
  size_t lines_;
  std::unique_ptr<Line[]> memory_;
};

}  // namespace simt
