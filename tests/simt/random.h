// SplitMix64 (Steele, Lea and Flood 2014): the same sequence from the same seed on every platform.
#pragma once

#include <cstddef>
#include <cstdint>

namespace simt {

struct Random {
  uint64_t state;

  uint64_t next() {
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }

  size_t below(size_t bound) { return next() % bound; }
};

}  // namespace simt
