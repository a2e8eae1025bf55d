// The online softmax, stated once: a mergeable accumulator of e = 2^u, u = (z − max)·log2(e)/τ.
//
// Every reduction of the forward pass, over lanes, tiles, segments, threads and blocks, on either
// device, is a tree of merge() calls; which tree is a function of V and dtype alone. Products and
// sums are written as explicit fused operations where they are meant to fuse, and the compilers are
// told not to fuse anything else, so that the same tree gives the same bits wherever it is inlined.
#pragma once

#include <cmath>
#include <cstdint>

#include "token_stats.h"

#if defined(__CUDACC__)
#define ENTROPY_INLINE __host__ __device__ __forceinline__
#else
#define ENTROPY_INLINE inline __attribute__((always_inline))
#endif

namespace entropy_ext {

template <class Real>
struct Constants;

template <>
struct Constants<float> {
  static constexpr float kLog2e = 1.44269504088896341f;
  static constexpr float kLn2 = 0.693147180559945309f;
  // 2^u is 0 in float (denormals flushed) below −126; one more bit keeps every 2^u normal.
  static constexpr float kMinExponent = -125.0f;
  // A finite stand-in for u = −∞: 2^u is 0 and u·0, u²·0 are 0 as well, not NaN.
  static constexpr float kDeadExponent = -300.0f;
  // Gradients are of the size of 1/τ: from here on, some would leave the range of the type.
  static constexpr float kLeastTemperature = 1e-32f;
};

template <>
struct Constants<double> {
  static constexpr double kLog2e = 1.44269504088896341;
  static constexpr double kLn2 = 0.693147180559945309;
  static constexpr double kMinExponent = -1021.0;
  static constexpr double kDeadExponent = -2400.0;
  static constexpr double kLeastTemperature = 1e-290;
};

ENTROPY_INLINE float fused(float a, float b, float c) { return fmaf(a, b, c); }
ENTROPY_INLINE double fused(double a, double b, double c) { return fma(a, b, c); }
ENTROPY_INLINE float natural_log(float x) { return logf(x); }
ENTROPY_INLINE double natural_log(double x) { return log(x); }
ENTROPY_INLINE float power_of_two(float x) { return exp2f(x); }
ENTROPY_INLINE double power_of_two(double x) { return exp2(x); }

template <class Real>
ENTROPY_INLINE Real negative_infinity() {
  return static_cast<Real>(-INFINITY);
}

template <class Real>
ENTROPY_INLINE Real not_a_number() {
  return static_cast<Real>(NAN);
}

// What one division per row buys the inner loops.
template <class Real>
struct TemperatureScale {
  Real inverse;  // 1/τ
  Real log2;     // log2(e)/τ, so that exp(z/τ) = 2^(z·log2)

  ENTROPY_INLINE explicit TemperatureScale(Real temperature)
      : inverse(Real(1) / temperature), log2(Constants<Real>::kLog2e / temperature) {}

  ENTROPY_INLINE static bool valid(Real temperature) {
    return temperature > Constants<Real>::kLeastTemperature && temperature < Real(INFINITY);
  }
};

template <class Real, bool kExtras>
struct SoftmaxMoments;

template <class Real>
struct SoftmaxMoments<Real, false> {
  Real max = negative_infinity<Real>();  // largest logit; −∞: nothing but −∞ (or NaN) so far
  Real sum = 0;                          // Σ e
  Real dot = 0;                          // Σ e·u
  int32_t live = 0;                      // how many logits are above −∞

  // Move the sums from the old maximum to one that lies `shift` = Δu ≤ 0 above it.
  ENTROPY_INLINE void rescale(Real shift, Real factor) {
    dot = fused(sum, shift, dot) * factor;
    sum = sum * factor;
  }

  ENTROPY_INLINE void add(const SoftmaxMoments& other) {
    sum = sum + other.sum;
    dot = dot + other.dot;
    live = live + other.live;
  }
};

template <class Real>
struct SoftmaxMoments<Real, true> {
  Real max = negative_infinity<Real>();
  Real sum = 0;
  Real dot = 0;
  int32_t live = 0;
  Real scatter = 0;     // Σ e·(u − dot/sum)²: central, so that a small variance is not a difference
  Real square = 0;      // Σ e²
  Real square_dot = 0;  // Σ e²·u

  ENTROPY_INLINE void rescale(Real shift, Real factor) {
    dot = fused(sum, shift, dot) * factor;
    sum = sum * factor;
    scatter = scatter * factor;
    square_dot = fused(square, shift, square_dot) * factor * factor;
    square = square * factor * factor;
  }

  ENTROPY_INLINE void add(const SoftmaxMoments& other) {
    scatter = scatter + other.scatter;
    if (sum > Real(0) && other.sum > Real(0)) {
      const Real gap = dot / sum - other.dot / other.sum;
      scatter = fused(gap * gap, sum * (other.sum / (sum + other.sum)), scatter);
    }
    sum = sum + other.sum;
    dot = dot + other.dot;
    live = live + other.live;
    square = square + other.square;
    square_dot = square_dot + other.square_dot;
  }

  // Fill in `scatter` from Σ e, Σ e·w and Σ e·w² of the same elements, where w is u from any point:
  // Σ e·w² − mean·Σ e·w − mean·(Σ e·w − mean·Σ e), each difference rounded once. Where Σ e
  // is 0 the result is NaN, and the comparison false.
  template <class Wide>
  ENTROPY_INLINE void set_scatter(Wide sum_e, Wide sum_ew, Wide sum_eww) {
    const Wide mean = sum_ew / sum_e;
    const Wide residue = fused(-mean, sum_e, sum_ew);
    const Wide central = fused(-mean, residue, fused(-mean, sum_ew, sum_eww));
    scatter = central > Wide(0) ? static_cast<Real>(central) : Real(0);
  }
};

template <class To, class From, bool kExtras>
ENTROPY_INLINE SoftmaxMoments<To, kExtras> converted(const SoftmaxMoments<From, kExtras>& moments) {
  SoftmaxMoments<To, kExtras> result;
  result.max = static_cast<To>(moments.max);
  result.sum = static_cast<To>(moments.sum);
  result.dot = static_cast<To>(moments.dot);
  result.live = moments.live;
  if constexpr (kExtras) {
    result.scatter = static_cast<To>(moments.scatter);
    result.square = static_cast<To>(moments.square);
    result.square_dot = static_cast<To>(moments.square_dot);
  }
  return result;
}

// Δu from an old maximum to a new one that is at least as large. Equal maxima, both −∞ included,
// do not move; an accumulator that was at −∞ holds zeros (or NaN, which survives the product with
// 2^Δu = 0), for which any finite Δu does.
template <class Real>
ENTROPY_INLINE Real shift_between(Real old_max, Real new_max, Real log2_scale) {
  if (old_max == new_max) return Real(0);
  const Real shift = (old_max - new_max) * log2_scale;
  return shift < Constants<Real>::kDeadExponent ? Constants<Real>::kDeadExponent : shift;
}

template <class Real, bool kExtras>
ENTROPY_INLINE void move_max(SoftmaxMoments<Real, kExtras>& moments, Real new_max,
                             Real log2_scale) {
  const Real shift = shift_between(moments.max, new_max, log2_scale);
  if (shift != Real(0)) moments.rescale(shift, power_of_two(shift));
  moments.max = new_max;
}

template <class Real, bool kExtras>
ENTROPY_INLINE void merge(SoftmaxMoments<Real, kExtras>& into, SoftmaxMoments<Real, kExtras> other,
                          Real log2_scale) {
  const Real max = into.max > other.max ? into.max : other.max;
  move_max(into, max, log2_scale);
  move_max(other, max, log2_scale);
  into.add(other);
}

// A comparison with NaN is false, so these clamps let NaN through, unlike fmin and fmax.
template <class Real>
ENTROPY_INLINE Real at_most(Real x, Real bound) {
  return x > bound ? bound : x;
}

template <class Real>
ENTROPY_INLINE Real at_least(Real x, Real bound) {
  return x < bound ? bound : x;
}

// What any set of columns gives, in nats, from its moments and the logit of the token.
template <class Real>
struct RowNumbers {
  Real sum;
  Real log_sum;
  Real logp;
  Real entropy;
  Real gap;  // entropy − ln Σ e, the mean of (max z − z)/τ, without the rounding of the entropy

  template <bool kExtras>
  ENTROPY_INLINE RowNumbers(const SoftmaxMoments<Real, kExtras>& moments,
                            const TemperatureScale<Real>& scale, Real token_logit) {
    const bool empty = moments.max == negative_infinity<Real>();  // softmax of nothing
    sum = empty ? not_a_number<Real>() : moments.sum;
    log_sum = natural_log(sum);

    // In double, once a row: the bound ln n comes out correctly rounded, which logf may miss by 1
    // ulp, and so does the entropy, whose rounding would otherwise show in its gradient.
    const Real log_live = static_cast<Real>(log(static_cast<double>(moments.live)));
    const double mean = static_cast<double>(moments.dot) / static_cast<double>(sum);
    const Real exact = static_cast<Real>(
        fused(-Constants<double>::kLn2, mean, log(static_cast<double>(sum))));
    entropy = at_least(at_most(exact, log_live), Real(0));
    gap = static_cast<Real>(-Constants<double>::kLn2 * mean);
    logp = at_most(fused(token_logit - moments.max, scale.inverse, -log_sum), Real(0));
  }
};

template <class Real, bool kExtras>
ENTROPY_INLINE void write_row(const TokenStatsForward& params, int64_t row,
                              const SoftmaxMoments<Real, kExtras>& moments,
                              const TemperatureScale<Real>& scale, Real token_logit) {
  constexpr Real ln2 = Constants<Real>::kLn2;
  const RowNumbers<Real> numbers(moments, scale, token_logit);
  const Real sum = numbers.sum;
  const Real log_sum = numbers.log_sum;
  static_cast<Real*>(params.logp)[row] = numbers.logp;
  static_cast<Real*>(params.entropy)[row] = numbers.entropy;
  static_cast<Real*>(params.lse)[row] = fused(moments.max, scale.inverse, log_sum);
  static_cast<Real*>(params.row_max)[row] = moments.max;
  // 0 for a row of −∞ only, so that shards of a vocabulary can be told from those that hold NaN.
  static_cast<Real*>(params.row_sum)[row] = moments.sum;

  if constexpr (kExtras) {
    Real* const extras = static_cast<Real*>(params.extras) + row;
    const Real per_sum = Real(1) / sum;
    const Real mean_square = moments.square * per_sum;
    const Real collision = mean_square * per_sum;
    const Real collision_u = moments.square_dot * per_sum * per_sum;
    const Real variance_u = moments.scatter * per_sum;
    const Real least = Real(1) / static_cast<Real>(moments.live);
    extras[0] = at_least(at_most(collision, Real(1)), least);
    extras[params.rows] = at_most(fused(ln2, collision_u, -log_sum * collision), Real(0));
    extras[2 * params.rows] = at_least(variance_u * (ln2 * ln2), Real(0));
    extras[3 * params.rows] = at_most(-log_sum, Real(0));
  }
}

template <class Real, bool kExtras>
ENTROPY_INLINE void write_constant_row(const TokenStatsForward& params, int64_t row, Real value) {
  static_cast<Real*>(params.logp)[row] = value;
  static_cast<Real*>(params.entropy)[row] = value;
  static_cast<Real*>(params.lse)[row] = value;
  static_cast<Real*>(params.row_max)[row] = value;
  static_cast<Real*>(params.row_sum)[row] = value;
  if constexpr (kExtras) {
    Real* const extras = static_cast<Real*>(params.extras) + row;
    for (int i = 0; i < 4; ++i) extras[i * params.rows] = value;
  }
}

}  // namespace entropy_ext
