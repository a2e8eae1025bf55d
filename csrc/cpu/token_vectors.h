// Numbers and flags of consecutive tokens as vectors of doubles, and the way back.
#pragma once

#include <algorithm>

#if defined(__SSE4_1__)
#include <immintrin.h>
#endif

#include "simd.h"

namespace entropy_ext::ENTROPY_EXT_ISA {

using Doubles = Vector<double>;
using DoubleMask = Mask<double>;
constexpr int kTokens = kLanes<double>;

typedef float HalfFloats __attribute__((vector_size(kVectorBytes / 2)));

// e^x for x < 709: 0 below −708, NaN for NaN.
struct Exponential {
  ENTROPY_INLINE Doubles operator()(Doubles x) const {
    constexpr double kLn2High = 6.93147180369123816490e-01;  // times an exponent it is exact
    constexpr double kLn2Low = 1.90821492927058770002e-10;
    x = at_most(x, splat(709.0));
    const DoubleMask tiny = x < splat(-708.0);
    x = at_least(x, splat(-708.0));
    const Doubles shifted = fused(x, splat(Constants<double>::kLog2e), splat(Bits<double>::kRound));
    const Doubles exponent = shifted - splat(Bits<double>::kRound);
    const Doubles r = fused(exponent, splat(-kLn2Low), fused(exponent, splat(-kLn2High), x));
    const DoubleMask power = bit_cast<DoubleMask>(shifted) << Bits<double>::kMantissa;
    const DoubleMask value = bit_cast<DoubleMask>(exp_polynomial(r)) + power;
    return bit_cast<Doubles>(value & ~tiny);
  }
};

// `count` ≤ kTokens numbers, zeros after them.
ENTROPY_INLINE Doubles load_tokens(const double* p, int64_t count) {
  Doubles v = {};
  if (count == kTokens) {
    std::memcpy(&v, p, sizeof(v));
  } else {
    std::memcpy(&v, p, count * sizeof(double));
  }
  return v;
}

ENTROPY_INLINE Doubles load_tokens(const float* p, int64_t count) {
  HalfFloats v = {};
  if (count == kTokens) {
    std::memcpy(&v, p, sizeof(v));
  } else {
    std::memcpy(&v, p, count * sizeof(float));
  }
  return __builtin_convertvector(v, Doubles);
}

ENTROPY_INLINE void store_tokens(Doubles v, double* p, int64_t count) {
  if (count == kTokens) {
    std::memcpy(p, &v, sizeof(v));
  } else {
    std::memcpy(p, &v, count * sizeof(double));
  }
}

ENTROPY_INLINE void store_tokens(Doubles v, float* p, int64_t count) {
  const HalfFloats narrow = __builtin_convertvector(v, HalfFloats);
  if (count == kTokens) {
    std::memcpy(p, &narrow, sizeof(narrow));
  } else {
    std::memcpy(p, &narrow, count * sizeof(float));
  }
}

// kLanes<Real> bytes as lanes. GCC 12 would take __builtin_convertvector() of them one by one.
template <class Real>
ENTROPY_INLINE Mask<Real> widen_bytes(const void* p) {
  constexpr int kBytes = kLanes<Real>;
#if defined(__SSE4_1__)
  // By way of a register: a wide load of what was just stored in parts would wait.
  uint64_t low = 0;
  uint64_t high = 0;
  std::memcpy(&low, p, kBytes < 8 ? kBytes : 8);
  if constexpr (kBytes == 16) std::memcpy(&high, static_cast<const char*>(p) + 8, 8);
  const __m128i all = _mm_set_epi64x(static_cast<int64_t>(high), static_cast<int64_t>(low));
  constexpr bool kFloat = sizeof(Real) == sizeof(float);
#if defined(__AVX512F__)
  if constexpr (kFloat) return bit_cast<Mask<Real>>(_mm512_maskz_cvtepu8_epi32(0xffff, all));
  if constexpr (!kFloat) return bit_cast<Mask<Real>>(_mm512_maskz_cvtepu8_epi64(0xff, all));
#elif defined(__AVX2__)
  if constexpr (kFloat) return bit_cast<Mask<Real>>(_mm256_cvtepu8_epi32(all));
  if constexpr (!kFloat) return bit_cast<Mask<Real>>(_mm256_cvtepu8_epi64(all));
#else
  if constexpr (kFloat) return bit_cast<Mask<Real>>(_mm_cvtepu8_epi32(all));
  if constexpr (!kFloat) return bit_cast<Mask<Real>>(_mm_cvtepu8_epi64(all));
#endif
#else
  uint8_t bytes[kBytes];
  std::memcpy(bytes, p, kBytes);
  Mask<Real> lanes;
  for (int i = 0; i < kBytes; ++i) lanes[i] = bytes[i];
  return lanes;
#endif
}

// Lanes of all ones where a flag is set, among `count` ≤ kLanes<Real> of them from i on, and of
// zeros beyond. No flags: all are `absent`.
template <class Real>
ENTROPY_INLINE Mask<Real> load_flags(const bool* flags, int64_t i, int64_t count, bool absent) {
  if (count == kLanes<Real>) {
    return flags == nullptr ? Mask<Real>{} - absent : -widen_bytes<Real>(flags + i);
  }
  bool some[kLanes<Real>] = {};
  for (int64_t k = 0; k < count; ++k) some[k] = flags == nullptr ? absent : flags[i + k];
  return -widen_bytes<Real>(some);
}

ENTROPY_INLINE DoubleMask load_valid(const bool* mask, int64_t i, int64_t count) {
  return load_flags<double>(mask, i, count, true);
}

ENTROPY_INLINE bool any(DoubleMask lanes) {
  int64_t found = 0;
  for (int i = 0; i < kTokens; ++i) found |= lanes[i];
  return found != 0;
}

// 0, and NaN where x is not finite.
ENTROPY_INLINE Doubles unless_finite(Doubles x) { return x - x; }

// Call visit(i, count) for begin ≤ i < end in steps of kTokens, the last of which may be short.
template <class Visit>
ENTROPY_INLINE void for_each_vector(int64_t begin, int64_t end, Visit visit) {
  int64_t i = begin;
  for (; i + kTokens <= end; i += kTokens) visit(i, int64_t{kTokens});
  if (i < end) visit(i, end - i);
}

// Tokens in chunks of a fixed size, shared among threads. run(chunk, begin, end) returns the first
// position that is in error, or −1; so does this.
constexpr int64_t kChunk = 16384;

ENTROPY_INLINE int64_t chunks_of(int64_t count) { return (count + kChunk - 1) / kChunk; }

template <class Run>
ENTROPY_INLINE int64_t for_each_chunk(int64_t count, int threads, Run run) {
  const int64_t chunks = chunks_of(count);
  int64_t first_bad = count;
  const auto team = static_cast<int>(std::min<int64_t>(threads, chunks));
#pragma omp parallel for num_threads(team) reduction(min : first_bad) if (chunks > 1)
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const int64_t bad = run(chunk, chunk * kChunk, std::min(count, (chunk + 1) * kChunk));
    if (bad >= 0) first_bad = std::min(first_bad, bad);
  }
  return first_bad < count ? first_bad : -1;
}

}  // namespace entropy_ext::ENTROPY_EXT_ISA
