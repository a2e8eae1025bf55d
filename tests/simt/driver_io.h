// How a driver and its other end in Python exchange cases and answers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "guarded.h"

namespace simt {

inline bool read_bytes(void* to, size_t bytes) { return std::fread(to, 1, bytes, stdin) == bytes; }

// An array that the kernels only read, or write in place of what they read.
class Input {
 public:
  explicit Input(size_t bytes, size_t offset = 0) : memory_(bytes, offset) {
    if (!read_bytes(memory_.begin(), bytes)) std::exit(2);
    before_.assign(memory_.begin(), memory_.begin() + bytes);
  }

  unsigned char* data() const { return memory_.begin(); }
  // What was written over the first bytes, which then are again what they were.
  void move_to(unsigned char* to, size_t bytes) const {
    std::copy_n(memory_.begin(), bytes, to);
    std::copy_n(before_.begin(), bytes, memory_.begin());
  }

  bool unchanged() const {
    return memory_.intact() && std::equal(before_.begin(), before_.end(), memory_.begin());
  }

 private:
  GuardedBytes memory_;
  std::vector<unsigned char> before_;
};

inline void write_result(const std::string& error, const std::vector<const GuardedBytes*>& outputs) {
  const int64_t length = static_cast<int64_t>(error.size());
  std::fwrite(&length, sizeof(length), 1, stdout);
  std::fwrite(error.data(), 1, error.size(), stdout);
  if (error.empty()) {
    for (const GuardedBytes* output : outputs) {
      std::fwrite(output->begin(), 1, output->bytes(), stdout);
    }
  }
  std::fflush(stdout);
}

}  // namespace simt
