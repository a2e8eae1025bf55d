// The moments of a run of columns, formed in vector registers, a tile of kTile columns at a time.
#pragma once

#include "simd.h"

namespace entropy_ext::ENTROPY_EXT_ISA {

// Independent chains of additions, as many as cover their latency.
constexpr int kChains = 4;
// Columns of a tile, whose maximum is known before its exponentials are taken.
constexpr int64_t kTile = 1024;
template <class Real>
constexpr int kPairs = kTile / (2 * kLanes<Real>);
constexpr int kPrefetchBytes = 4096;

// How far the maximum may rise before the pivot of the squares is chosen anew.
template <class Real>
constexpr Real kPivotDrift = -2;

// The sum of all lanes of all chains in To, by halves: one large term meets few roundings.
template <class To, class Real, int kCount>
ENTROPY_INLINE To total_of(const Vector<Real> (&chains)[kCount]) {
  constexpr int kTerms = kCount * kLanes<Real>;
  static_assert((kTerms & (kTerms - 1)) == 0, "halves of a power of two");
  To terms[kTerms];
  for (int c = 0; c < kCount; ++c) {
    for (int i = 0; i < kLanes<Real>; ++i) {
      terms[c * kLanes<Real> + i] = static_cast<To>(chains[c][i]);
    }
  }
  for (int half = kTerms / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) terms[i] = terms[i] + terms[i + half];
  }
  return terms[0];
}

// Into the second-level cache, whence the hardware's own prefetching takes over: that stops at each
// page, and the window of instructions in flight is shorter than the latency of memory. Addresses
// past the end of the logits are harmless here.
template <int kBytes>
ENTROPY_INLINE void prefetch(const char* begin) {
  constexpr int kCacheLine = 64;
  constexpr int kForReading = 0;
  constexpr int kSecondLevel = 2;
  for (int i = 0; i < kBytes; i += kCacheLine) {
    __builtin_prefetch(begin + i, kForReading, kSecondLevel);
  }
}

// Call visit(i, chain, pair) for the pairs i = 0, 1, … of a tile. `chain` = 0, 2, 0, 2, … is a
// constant once the inner loop is unrolled, as it must be for accumulators to live in registers.
template <class Real, class Storage, class Visit>
ENTROPY_INLINE void for_each_pair(const Storage* z, int pairs, Visit visit) {
  for (int i = 0; i < pairs; i += kChains / 2) {
#pragma GCC unroll 2
    for (int j = 0; j < kChains / 2; ++j) {
      visit(i + j, 2 * j, load_pair(z + (i + j) * 2 * kLanes<Real>));
    }
  }
}

// Largest and smallest logit of a tile, lane by lane.
template <class Real>
struct Extremes {
  Vector<Real> high[2] = {splat(negative_infinity<Real>()), splat(negative_infinity<Real>())};
  Vector<Real> low[2] = {splat(-negative_infinity<Real>()), splat(-negative_infinity<Real>())};

  ENTROPY_INLINE void push(const Pair<Real>& x) {
    high[0] = maximum(x.first, high[0]);
    low[0] = minimum(x.first, low[0]);
    high[1] = maximum(x.second, high[1]);
    low[1] = minimum(x.second, low[1]);
  }

  ENTROPY_INLINE Real max() const {
    const Vector<Real> lanes = maximum(high[0], high[1]);
    Real max = lanes[0];
    for (int i = 1; i < kLanes<Real>; ++i) max = lanes[i] > max ? lanes[i] : max;
    return max;
  }

  ENTROPY_INLINE Real min() const {
    const Vector<Real> lanes = minimum(low[0], low[1]);
    Real min = lanes[0];
    for (int i = 1; i < kLanes<Real>; ++i) min = lanes[i] < min ? lanes[i] : min;
    return min;
  }
};

template <class Real, class Storage>
ENTROPY_INLINE Extremes<Real> extremes_of(const Storage* z) {
  Extremes<Real> extremes;
  for_each_pair<Real>(z, kPairs<Real>, [&](int, int, const Pair<Real>& x) { extremes.push(x); });
  return extremes;
}

// The moments of kChains × kLanes interleaved columns.
template <class Real, bool kExtras>
struct Accumulators {
  Vector<Real> sum[kChains] = {};
  Vector<Real> dot[kChains] = {};
  // Two chains each are enough beside the eight above, and leave registers for the constants.
  Vector<Real> spread[2] = {};      // Σ e·w², w = u − pivot
  Vector<Real> square[2] = {};      // Σ e²
  Vector<Real> square_dot[2] = {};  // Σ e²·w
  Mask<Real> live = {};
  Real max = negative_infinity<Real>();
  // Near the mean of u, for squares about a far point would lose the digits of a small variance.
  Real pivot = 0;
  Real drift = kPivotDrift<Real>;  // of the maximum since the pivot was chosen

  ENTROPY_INLINE void raise_max(Real new_max, Real log2_scale) {
    const Real step = shift_between(max, new_max, log2_scale);
    max = new_max;
    if (step == Real(0)) return;
    const Vector<Real> shift = splat(step);
    const Vector<Real> factor = splat(power_of_two(step));
    for (int c = 0; c < kChains; ++c) {
      dot[c] = fused(sum[c], shift, dot[c]) * factor;
      sum[c] = sum[c] * factor;
    }
    if constexpr (kExtras) {
      for (int h = 0; h < 2; ++h) {
        spread[h] = spread[h] * factor;
        square[h] = square[h] * factor * factor;
        square_dot[h] = square_dot[h] * factor * factor;
      }
      pivot = pivot + step;  // the same logit, seen from the new maximum: w is what it was
      drift = drift + step;
    }
  }

  // Move the pivot towards the mean of u: over what is accumulated, the first eighth of the tile
  // that comes, and the maximum of that tile, which may lie outside that eighth.
  template <class Storage>
  ENTROPY_INLINE void move_pivot(const Storage* z, Real centre, Real log2_scale) {
    Vector<Real> next_sum = {};
    Vector<Real> next_dot = {};
    for_each_pair<Real>(z, kPairs<Real> / 8, [&](int, int, const Pair<Real>& x) {
      for (int h = 0; h < 2; ++h) {
        Vector<Real> u = ((h == 0 ? x.first : x.second) - splat(centre)) * splat(log2_scale);
        const Vector<Real> e = exp2_guarded<Real>(u);
        next_sum = next_sum + e;
        next_dot = fused(e, u, next_dot);
      }
    });
    const Vector<Real> sums[] = {next_sum + ((sum[0] + sum[1]) + (sum[2] + sum[3]))};
    const Vector<Real> dots[] = {next_dot + ((dot[0] + dot[1]) + (dot[2] + dot[3]))};
    const Real mean = total_of<Real, Real>(dots) / (total_of<Real, Real>(sums) + Real(1));
    const Vector<Real> gap = splat(pivot - mean);
    for (int h = 0; h < 2; ++h) {
      const Vector<Real> sum_h = sum[h] + sum[h + 2];
      const Vector<Real> about = fused(splat(-pivot), sum_h, dot[h] + dot[h + 2]);
      spread[h] = fused(gap, fused(gap, sum_h, about + about), spread[h]);
      square_dot[h] = fused(gap, square[h], square_dot[h]);
    }
    pivot = mean;
    drift = 0;
  }

  // Add a tile, and take the extremes of the one at `next` on the way, so that its columns are
  // being loaded while the exponentials of this one are computed. The tile is summed apart: added one
  // by one to a lane that holds the row's largest term, a tail of small ones would be rounded away.
  template <bool kVanishing, class Storage>
  ENTROPY_INLINE Extremes<Real> add(const Storage* z, const Storage* next, Real centre,
                                    Real log2_scale) {
    Extremes<Real> extremes;
    Vector<Real> tile_sum[kChains] = {};
    Vector<Real> tile_dot[kChains] = {};
    Vector<Real> tile_spread[2] = {};
    Vector<Real> tile_square[2] = {};
    Vector<Real> tile_square_dot[2] = {};
    for_each_pair<Real>(z, kPairs<Real>, [&](int i, int chain, const Pair<Real>& x) {
      const Storage* const ahead = next + i * 2 * kLanes<Real>;
      prefetch<2 * kLanes<Real> * sizeof(Storage)>(
          reinterpret_cast<const char*>(ahead) + kPrefetchBytes);
      extremes.push(load_pair(ahead));
      for (int h = 0; h < 2; ++h) {
        const int c = chain + h;
        const Vector<Real> logits = h == 0 ? x.first : x.second;
        Vector<Real> u = (logits - splat(centre)) * splat(log2_scale);
        const Vector<Real> e = kVanishing ? exp2_guarded<Real>(u) : exp2_normal<Real>(u);
        tile_sum[c] = tile_sum[c] + e;
        tile_dot[c] = fused(e, u, tile_dot[c]);
        if constexpr (kExtras) {
          const Vector<Real> w = u - splat(pivot);
          const Vector<Real> ew = e * w;
          tile_spread[h] = fused(ew, w, tile_spread[h]);
          tile_square[h] = fused(e, e, tile_square[h]);
          tile_square_dot[h] = fused(e, ew, tile_square_dot[h]);
        }
        if constexpr (kVanishing) {
          live = live - (logits > splat(negative_infinity<Real>()));  // a true lane is −1
        }
      }
    });
    if constexpr (!kVanishing) live = live + 2 * kPairs<Real>;
    for (int c = 0; c < kChains; ++c) {
      sum[c] = sum[c] + tile_sum[c];
      dot[c] = dot[c] + tile_dot[c];
    }
    if constexpr (kExtras) {
      for (int h = 0; h < 2; ++h) {
        spread[h] = spread[h] + tile_spread[h];
        square[h] = square[h] + tile_square[h];
        square_dot[h] = square_dot[h] + tile_square_dot[h];
      }
    }
    return extremes;
  }

  // `z` points at kTile columns whose extremes are known; returns those of the tile at `next`.
  template <class Storage>
  ENTROPY_INLINE Extremes<Real> push_tile(const Storage* z, const Extremes<Real>& extremes,
                                          const Storage* next, Real log2_scale) {
    const Real tile_max = extremes.max();
    raise_max(tile_max > max ? tile_max : max, log2_scale);
    // Until a finite logit comes, u = −∞ − centre must not be −∞ − (−∞).
    const Real centre = max == negative_infinity<Real>() ? Real(0) : max;
    if (kExtras && drift <= kPivotDrift<Real>) move_pivot(z, centre, log2_scale);
    // Where some 2^u vanishes, −∞ or not, every element is tested; a comparison with NaN is false.
    const bool normal = (extremes.min() - centre) * log2_scale >= Constants<Real>::kMinExponent;
    return normal ? add<false>(z, next, centre, log2_scale) : add<true>(z, next, centre, log2_scale);
  }

  // In double, in which segments then merge: what they have in common cancels there.
  ENTROPY_INLINE SoftmaxMoments<double, kExtras> total() const {
    SoftmaxMoments<double, kExtras> moments;
    moments.max = max;
    moments.sum = total_of<Real, Real>(sum);
    moments.dot = total_of<Real, Real>(dot);
    for (int i = 0; i < kLanes<Real>; ++i) moments.live += static_cast<int32_t>(live[i]);
    if constexpr (kExtras) {
      const double sum_e = total_of<double, Real>(sum);
      const double about = total_of<double, Real>(dot) - double{pivot} * sum_e;
      moments.set_scatter(sum_e, about, total_of<double, Real>(spread));
      moments.square = total_of<Real, Real>(square);
      moments.square_dot = total_of<Real, Real>(square_dot);
      moments.square_dot = fused(double{pivot}, moments.square, moments.square_dot);
    }
    return moments;
  }
};

}  // namespace entropy_ext::ENTROPY_EXT_ISA
