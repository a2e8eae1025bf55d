// The arithmetic of token selection, stated once for both devices.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "softmax_moments.h"
#include "token_selection.h"

namespace entropy_ext {

// Sums as unevaluated pairs: high is the rounded sum, low what rounding took.
ENTROPY_INLINE void add_exactly(double (&sum)[2], double x) {
  const double total = sum[0] + x;
  const double part = total - sum[0];
  sum[1] = sum[1] + ((sum[0] - (total - part)) + (x - part));
  sum[0] = total;
}

ENTROPY_INLINE void add_pair(double (&sum)[2], const double (&other)[2]) {
  add_exactly(sum, other[0]);
  add_exactly(sum, other[1]);
}

ENTROPY_INLINE void add_product(double (&sum)[2], double x, double y) {
  const double product = x * y;
  add_exactly(sum, product);
  add_exactly(sum, fused(x, y, -product));
}

ENTROPY_INLINE void add_token(MomentSums& sums, double logp, double advantage) {
  sums.counted = sums.counted + 1;
  add_exactly(sums.logp, logp);
  add_exactly(sums.advantage, advantage);
  add_product(sums.logp_square, logp, logp);
  add_product(sums.advantage_square, advantage, advantage);
  add_product(sums.product, logp, advantage);
}

ENTROPY_INLINE void add_sums(MomentSums& into, const MomentSums& other) {
  into.counted = into.counted + other.counted;
  into.skipped = into.skipped + other.skipped;
  add_pair(into.logp, other.logp);
  add_pair(into.advantage, other.advantage);
  add_pair(into.logp_square, other.logp_square);
  add_pair(into.advantage_square, other.advantage_square);
  add_pair(into.product, other.product);
}

// Unsigned keys in the order of the numbers. Adding 0 makes −0 equal to +0.
ENTROPY_INLINE uint32_t ordered_key(float x) {
  x = x + 0.0f;
  uint32_t bits;
  memcpy(&bits, &x, sizeof(bits));
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

ENTROPY_INLINE uint64_t ordered_key(double x) {
  x = x + 0.0;
  uint64_t bits;
  memcpy(&bits, &x, sizeof(bits));
  return bits >> 63 ? ~bits : bits | (uint64_t{1} << 63);
}

// A bijection of 64-bit words whose every output bit depends on every input bit: xor-shifts and odd
// multipliers (Stafford's variant 13 of the MurmurHash3 finaliser).
ENTROPY_INLINE uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// Counter-based: the key of a token is a function of seed and id alone, and for one seed distinct
// ids have distinct keys. Two rounds with different words of the seed, for one round would give two
// seeds the same keys in permuted order.
struct TokenHash {
  uint64_t first;
  uint64_t second;

  ENTROPY_INLINE explicit TokenHash(int64_t seed)
      : first(mix(static_cast<uint64_t>(seed) + 0x9e3779b97f4a7c15u)),
        second(mix(first ^ 0xd1b54a32d192ed03u)) {}

  ENTROPY_INLINE uint64_t operator()(int64_t id) const {
    return mix(mix(static_cast<uint64_t>(id) + first) ^ second);
  }
};

// How many to choose of `valid` tokens, `candidates` of which may be.
ENTROPY_INLINE int64_t select_count(SelectCount rule, double fraction, int64_t valid,
                                    int64_t candidates) {
  if (valid == 0) return 0;
  const double n = static_cast<double>(valid);
  int64_t k = 0;
  switch (rule) {
    case SelectCount::kFloor: k = static_cast<int64_t>(fraction * n); break;
    case SelectCount::kCeil: k = static_cast<int64_t>(fraction * n + 0.9999); break;
    case SelectCount::kQuantile:
      k = valid - static_cast<int64_t>(ceil((1.0 - fraction) * (n - 1.0)));
      break;
  }
  k = k < 1 ? 1 : k;
  return k < candidates ? k : candidates;
}

}  // namespace entropy_ext
