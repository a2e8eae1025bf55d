// Memory for the gradients of logits, handed from one training step to the next.
//
// A gradient of hundreds of megabytes would otherwise be fresh memory each step, which the system
// zeroes page by page although every byte is then overwritten: a third of the time of forward and
// backward together. One block, the last that was released, is kept for a request of its size and
// offered back to the system meanwhile, as CUDA's allocator does without the offer.
#pragma once

#include <cstddef>
#include <cstdint>

namespace entropy_ext {

#if defined(__linux__)

class GradientMemory {
 public:
  explicit GradientMemory(int64_t bytes);
  ~GradientMemory();
  GradientMemory(const GradientMemory&) = delete;
  GradientMemory& operator=(const GradientMemory&) = delete;

  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  int64_t bytes_;
  void* begin_;
  void* data_;
  size_t mapped_;
};

#endif

}  // namespace entropy_ext
