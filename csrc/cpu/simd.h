// A native vector of float or double, and loads and stores that widen and narrow half precision.
//
// Arithmetic is the compiler's vector extension (GCC and Clang), so one text serves SSE, AVX2,
// AVX-512 and NEON; intrinsics stand only where the extension has no word: fused multiply-add and
// float16 conversion.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "../rows.h"

namespace entropy_ext::ENTROPY_EXT_ISA {

using entropy_ext::fused;

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

struct BFloat16 {
  uint16_t bits;
};

struct Float16 {
  uint16_t bits;
};

template <class Real>
struct Bits;

template <>
struct Bits<float> {
  using Integer = int32_t;
  static constexpr int kMantissa = 23;
  static constexpr float kRound = 12582912.0f;  // 1.5·2^23: adding it rounds to an integer
};

template <>
struct Bits<double> {
  using Integer = int64_t;
  static constexpr int kMantissa = 52;
  static constexpr double kRound = 6755399441055744.0;  // 1.5·2^52
};

template <class Real>
struct VectorOf {
  using Integer = typename Bits<Real>::Integer;
  typedef Real Type __attribute__((vector_size(kVectorBytes)));
  typedef Integer Mask __attribute__((vector_size(kVectorBytes)));
};

template <class Real>
using Vector = typename VectorOf<Real>::Type;
template <class Real>
using Mask = typename VectorOf<Real>::Mask;
template <class Real>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(Real));

template <class To, class From>
ENTROPY_INLINE To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast keeps the size");
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

template <class Real>
ENTROPY_INLINE Vector<Real> splat(Real x) {
  return x - Vector<Real>{};
}

// Compiled to the min and max instructions. Where either operand is NaN the second is returned: with
// the running value second, NaN elements leave it alone.
template <class V>
ENTROPY_INLINE V maximum(V a, V b) {
  return a > b ? a : b;
}

template <class V>
ENTROPY_INLINE V minimum(V a, V b) {
  return a < b ? a : b;
}

// One rounding where the instruction set has the instruction, two elsewhere.
#if defined(__AVX512F__)
ENTROPY_INLINE Vector<float> fused(Vector<float> a, Vector<float> b, Vector<float> c) {
  return _mm512_fmadd_ps(a, b, c);
}
ENTROPY_INLINE Vector<double> fused(Vector<double> a, Vector<double> b, Vector<double> c) {
  return _mm512_fmadd_pd(a, b, c);
}
#elif defined(__AVX2__)
ENTROPY_INLINE Vector<float> fused(Vector<float> a, Vector<float> b, Vector<float> c) {
  return _mm256_fmadd_ps(a, b, c);
}
ENTROPY_INLINE Vector<double> fused(Vector<double> a, Vector<double> b, Vector<double> c) {
  return _mm256_fmadd_pd(a, b, c);
}
#else
template <class V>
ENTROPY_INLINE V fused(V a, V b, V c) {
  return a * b + c;
}
#endif

// 2^x for kMinExponent ≤ x ≤ 0 (the caller guards): round to an integer, a polynomial on
// [−½, ½] whose constant term is exactly 1, and the integer added to the exponent field.
ENTROPY_INLINE Vector<float> exp2_polynomial(Vector<float> f) {
  // Minimax in relative error: 2e-9, below the rounding of the Horner steps (8e-8).
  Vector<float> p = splat(1.5353362031e-04f);
  p = fused(p, f, splat(1.3398874651e-03f));
  p = fused(p, f, splat(9.6184373591e-03f));
  p = fused(p, f, splat(5.5503324705e-02f));
  p = fused(p, f, splat(2.4022647914e-01f));
  p = fused(p, f, splat(6.9314720286e-01f));
  return fused(p, f, splat(1.0f));
}

// e^r by the Taylor series to the 13th power: 4e-18 for |r| ≤ ½·ln 2.
ENTROPY_INLINE Vector<double> exp_polynomial(Vector<double> r) {
  Vector<double> p = splat(1.0 / 6227020800.0);
  constexpr double kInverseFactorial[] = {1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800,
                                          1.0 / 362880,    1.0 / 40320,    1.0 / 5040,
                                          1.0 / 720,       1.0 / 120,      1.0 / 24,
                                          1.0 / 6,         0.5,            1.0,
                                          1.0};
  for (double c : kInverseFactorial) p = fused(p, r, splat(c));
  return p;
}

ENTROPY_INLINE Vector<double> exp2_polynomial(Vector<double> f) {
  return exp_polynomial(f * splat(Constants<double>::kLn2));
}

template <class Real>
ENTROPY_INLINE Vector<Real> exp2_normal(Vector<Real> x) {
  const Vector<Real> shifted = x + splat(Bits<Real>::kRound);
  const Vector<Real> f = x - (shifted - splat(Bits<Real>::kRound));
  const Vector<Real> p = exp2_polynomial(f);
  const Mask<Real> exponent = bit_cast<Mask<Real>>(shifted) << Bits<Real>::kMantissa;
  return bit_cast<Vector<Real>>(bit_cast<Mask<Real>>(p) + exponent);
}

// 2^x for any x ≤ 0: 0 below kMinExponent, NaN for NaN. `x` is raised to the finite kDeadExponent.
template <class Real>
ENTROPY_INLINE Vector<Real> exp2_guarded(Vector<Real>& x) {
  x = maximum(splat(Constants<Real>::kDeadExponent), x);
  const Vector<Real> value =
      exp2_normal<Real>(maximum(splat(Constants<Real>::kMinExponent), x));
  const Mask<Real> tiny = x < splat(Constants<Real>::kMinExponent);
  return bit_cast<Vector<Real>>(bit_cast<Mask<Real>>(value) & ~tiny);
}

ENTROPY_INLINE float widen(float x) { return x; }
ENTROPY_INLINE double widen(double x) { return x; }
ENTROPY_INLINE float widen(BFloat16 x) {
  return bit_cast<float>(static_cast<uint32_t>(x.bits) << 16);
}
ENTROPY_INLINE float widen(Float16 x) {
  // Shift the exponent into place and multiply by 2^112, which also normalises subnormals; the
  // largest exponent means infinity or NaN in either format.
  const uint32_t magnitude = static_cast<uint32_t>(x.bits & 0x7fff) << 13;
  const float scaled = bit_cast<float>(magnitude) * 0x1p112f;
  const uint32_t bits = bit_cast<uint32_t>(scaled) | (magnitude >= 0x0f800000u ? 0x7f800000u : 0u);
  return bit_cast<float>(bits | static_cast<uint32_t>(x.bits & 0x8000) << 16);
}

// Round to nearest, ties to even.
ENTROPY_INLINE void narrow(float x, float* out) { *out = x; }
ENTROPY_INLINE void narrow(double x, double* out) { *out = x; }
ENTROPY_INLINE void narrow(float x, BFloat16* out) {
  const uint32_t bits = bit_cast<uint32_t>(x);
  const uint32_t rounded = bits + 0x7fffu + (bits >> 16 & 1u);
  out->bits = static_cast<uint16_t>((x == x ? rounded : bits | 0x00400000u) >> 16);
}
ENTROPY_INLINE void narrow(float x, Float16* out) {
  const uint32_t bits = bit_cast<uint32_t>(x);
  const uint32_t sign = bits >> 16 & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u;
  } else if (magnitude >= 0x47800000u) {  // 65536 and above
    half = 0x7c00u;
  } else if (magnitude < 0x38800000u) {   // below 2^-14: subnormal; let float addition round
    half = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  } else {
    half = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  }
  out->bits = static_cast<uint16_t>(half | sign);
}

// A pair of vectors widened from 2·kLanes elements, and the reverse. Which element goes to which
// lane is the format's choice, the same in both: bfloat16 splits 32-bit words into halves, which
// costs two bit operations where an ordered conversion would shuffle across the register.
template <class Real>
struct Pair {
  Vector<Real> first;
  Vector<Real> second;
};

template <class Real>
ENTROPY_INLINE Pair<Real> load_pair(const Real* p) {
  Pair<Real> v;
  std::memcpy(&v.first, p, kVectorBytes);
  std::memcpy(&v.second, p + kLanes<Real>, kVectorBytes);
  return v;
}

template <class Real>
ENTROPY_INLINE void store_pair(const Pair<Real>& v, Real* p) {
  std::memcpy(p, &v.first, kVectorBytes);
  std::memcpy(p + kLanes<Real>, &v.second, kVectorBytes);
}

typedef uint32_t Words __attribute__((vector_size(kVectorBytes)));

ENTROPY_INLINE Pair<float> load_pair(const BFloat16* p) {
  Words words;
  std::memcpy(&words, p, sizeof(words));
  return {bit_cast<Vector<float>>(words << 16), bit_cast<Vector<float>>(words & 0xffff0000u)};
}

// As narrow(), without its test for NaN: the upper half of the sum is the rounded bfloat16. A NaN
// would round to infinity or overflow only with low bits set, and the caller's have none: they
// descend from bfloat16 logits and from canonical per-row constants (RowGradient).
ENTROPY_INLINE Words rounded_upper_half(Vector<float> v) {
  const Words bits = bit_cast<Words>(v);
  return bits + 0x7fffu + (bits >> 16 & 1u);
}

ENTROPY_INLINE void store_pair(const Pair<float>& v, BFloat16* p) {
  const Words words =
      rounded_upper_half(v.first) >> 16 | (rounded_upper_half(v.second) & 0xffff0000u);
  std::memcpy(p, &words, sizeof(words));
}

typedef uint16_t Halves __attribute__((vector_size(kVectorBytes / 2)));

#if defined(__AVX512F__)
// The masked forms spare GCC 12 a false warning about its own header.
ENTROPY_INLINE Vector<float> widen_half(const Float16* p) {
  return _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
ENTROPY_INLINE Halves narrow_half(Vector<float> v) {
  return bit_cast<Halves>(_mm512_maskz_cvtps_ph(0xffff, v, _MM_FROUND_TO_NEAREST_INT));
}
#elif defined(__AVX2__)
ENTROPY_INLINE Vector<float> widen_half(const Float16* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
ENTROPY_INLINE Halves narrow_half(Vector<float> v) {
  return bit_cast<Halves>(_mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
#else
ENTROPY_INLINE Vector<float> widen_half(const Float16* p) {
  Vector<float> v;
  for (int i = 0; i < kLanes<float>; ++i) v[i] = widen(p[i]);
  return v;
}
ENTROPY_INLINE Halves narrow_half(Vector<float> v) {
  Halves halves;
  for (int i = 0; i < kLanes<float>; ++i) {
    Float16 half;
    narrow(v[i], &half);
    halves[i] = half.bits;
  }
  return halves;
}
#endif

ENTROPY_INLINE Pair<float> load_pair(const Float16* p) {
  return {widen_half(p), widen_half(p + kLanes<float>)};
}

ENTROPY_INLINE void store_pair(const Pair<float>& v, Float16* p) {
  const Halves first = narrow_half(v.first);
  const Halves second = narrow_half(v.second);
  std::memcpy(p, &first, sizeof(first));
  std::memcpy(p + kLanes<float>, &second, sizeof(second));
}

}  // namespace entropy_ext::ENTROPY_EXT_ISA
