// Token statistics on the CPU. This file is compiled once per instruction set, each time into a
// namespace of its own (ENTROPY_EXT_ISA); dispatch.cpp picks one when the module is imported.
//
// A row is cut into segments of kSegment columns, a function of nothing, and a segment's moments
// are formed by one thread in one order. Threads share rows, or segments where rows are few; either
// way the segments of a row are merged from left to right, so that neither the number of rows nor
// the number of threads changes a bit.
#include <omp.h>

#include <algorithm>
#include <memory>

#include "isa.h"
#include "simd.h"

namespace entropy_ext::ENTROPY_EXT_ISA {

constexpr int64_t kSegment = 16384;
// Independent chains of additions: enough to cover their latency.
constexpr int kChains = 4;
// Vectors a tile holds for each chain. The maximum of a tile is taken before its exponentials, from
// the first-level cache; a longer tile spares reductions, a shorter one stays in the cache.
constexpr int kVectorsPerChain = 16;

template <class Real>
constexpr int64_t kTile = static_cast<int64_t>(kChains) * kVectorsPerChain * kLanes<Real>;

// The mean of u = log2(p/max p) is at least −log2 V: a pivot further down only loses digits.
template <class Real>
constexpr Real kLeastPivot = -32;

// The sum of all lanes of all chains, lane by lane, accumulated in To.
template <class To, class Real>
ENTROPY_INLINE To total_of(const Vector<Real> (&chains)[kChains]) {
  To total = 0;
  for (int c = 0; c < kChains; ++c) {
    for (int i = 0; i < kLanes<Real>; ++i) total = total + static_cast<To>(chains[c][i]);
  }
  return total;
}

// The moments of kChains × kLanes interleaved columns.
template <class Real, bool kExtras>
struct Accumulators {
  Vector<Real> sum[kChains] = {};
  Vector<Real> dot[kChains] = {};
  Vector<Real> spread[kChains] = {};  // Σ e·(u − pivot)²
  Vector<Real> square[kChains] = {};
  Vector<Real> square_dot[kChains] = {};
  Mask<Real> live = {};
  Real max = negative_infinity<Real>();
  // A guess at the mean of u: squares about it lose no digits to a mean far from the maximum.
  Real pivot = 0;
  bool pivot_set = false;

  ENTROPY_INLINE void raise_max(Real new_max, Real log2_scale) {
    const Real step = shift_between(max, new_max, log2_scale);
    max = new_max;
    if (step == Real(0)) return;
    const Vector<Real> shift = splat(step);
    const Vector<Real> factor = splat(power_of_two(step));
    const Real moved = pivot + step;  // the same logit, seen from the new maximum
    const Real kept = at_least(moved, kLeastPivot<Real>);
    for (int c = 0; c < kChains; ++c) {
      if constexpr (kExtras) {
        if (kept != moved) {
          const Vector<Real> gap = splat(moved - kept);
          const Vector<Real> about = fused(splat(-pivot), sum[c], dot[c]);
          spread[c] = fused(gap, fused(gap, sum[c], about + about), spread[c]);
        }
        spread[c] = spread[c] * factor;
        square_dot[c] = fused(square[c], shift, square_dot[c]) * factor * factor;
        square[c] = square[c] * factor * factor;
      }
      dot[c] = fused(sum[c], shift, dot[c]) * factor;
      sum[c] = sum[c] * factor;
    }
    pivot = kept;
  }

  // The mean of u over the first kChains vectors of the first tile that holds anything.
  template <class Storage>
  ENTROPY_INLINE void set_pivot(const Storage* z, Real log2_scale) {
    if (pivot_set || max == negative_infinity<Real>()) return;
    pivot_set = true;
    Real sum_e = 0;
    Real sum_eu = 0;
    for (int c = 0; c < kChains; ++c) {
      Vector<Real> u = (load(z + c * kLanes<Real>) - splat(max)) * splat(log2_scale);
      const Vector<Real> e = exp2_guarded<Real>(u);
      const Vector<Real> eu = e * u;
      for (int i = 0; i < kLanes<Real>; ++i) {
        sum_e = sum_e + e[i];
        sum_eu = sum_eu + eu[i];
      }
    }
    pivot = sum_e > Real(0) ? at_least(sum_eu / sum_e, kLeastPivot<Real>) : Real(0);
  }

  ENTROPY_INLINE void push(int c, Vector<Real> e, Vector<Real> u) {
    sum[c] = sum[c] + e;
    dot[c] = fused(e, u, dot[c]);
    if constexpr (kExtras) {
      const Vector<Real> w = u - splat(pivot);
      const Vector<Real> ee = e * e;
      spread[c] = fused(e * w, w, spread[c]);
      square[c] = square[c] + ee;
      square_dot[c] = fused(ee, u, square_dot[c]);
    }
  }

  // `z` points at kTile columns.
  template <class Storage>
  ENTROPY_INLINE void push_tile(const Storage* z, Real log2_scale) {
    Vector<Real> high[kChains];
    Vector<Real> low[kChains];
    for (int c = 0; c < kChains; ++c) {
      high[c] = splat(negative_infinity<Real>());
      low[c] = splat(-negative_infinity<Real>());
    }
    constexpr int kStep = kChains * kLanes<Real>;
    for (int v = 0; v < kVectorsPerChain; ++v) {
      for (int c = 0; c < kChains; ++c) {
        const Vector<Real> x = load(z + v * kStep + c * kLanes<Real>);
        high[c] = maximum(x, high[c]);
        low[c] = minimum(x, low[c]);
      }
    }
    for (int c = 1; c < kChains; ++c) {
      high[0] = maximum(high[c], high[0]);
      low[0] = minimum(low[c], low[0]);
    }
    Real tile_max = high[0][0];
    Real tile_min = low[0][0];
    for (int i = 1; i < kLanes<Real>; ++i) {
      tile_max = high[0][i] > tile_max ? high[0][i] : tile_max;
      tile_min = low[0][i] < tile_min ? low[0][i] : tile_min;
    }
    raise_max(tile_max > max ? tile_max : max, log2_scale);
    if constexpr (kExtras) set_pivot(z, log2_scale);

    // Until a finite logit comes, u = −∞ − centre must not be −∞ − (−∞).
    const Real centre = max == negative_infinity<Real>() ? Real(0) : max;
    const Vector<Real> centres = splat(centre);
    const Vector<Real> scales = splat(log2_scale);
    if ((tile_min - centre) * log2_scale >= Constants<Real>::kMinExponent) {
      for (int v = 0; v < kVectorsPerChain; ++v) {
        for (int c = 0; c < kChains; ++c) {
          const Vector<Real> u = (load(z + v * kStep + c * kLanes<Real>) - centres) * scales;
          push(c, exp2_normal<Real>(u), u);
        }
      }
      live = live + kVectorsPerChain * kChains;
    } else {
      // Some 2^u vanishes, a logit is −∞, or the whole tile is: test every element.
      for (int v = 0; v < kVectorsPerChain; ++v) {
        for (int c = 0; c < kChains; ++c) {
          const Vector<Real> x = load(z + v * kStep + c * kLanes<Real>);
          Vector<Real> u = (x - centres) * scales;
          const Vector<Real> e = exp2_guarded<Real>(u);
          push(c, e, u);
          live = live - (x > splat(negative_infinity<Real>()));  // a true lane is −1
        }
      }
    }
  }

  ENTROPY_INLINE SoftmaxMoments<Real, kExtras> total() const {
    SoftmaxMoments<Real, kExtras> moments;
    moments.max = max;
    moments.sum = total_of<Real, Real>(sum);
    moments.dot = total_of<Real, Real>(dot);
    for (int i = 0; i < kLanes<Real>; ++i) moments.live += static_cast<int32_t>(live[i]);
    if constexpr (kExtras) {
      const double sum_e = total_of<double, Real>(sum);
      const double about = total_of<double, Real>(dot) - static_cast<double>(pivot) * sum_e;
      moments.set_scatter(sum_e, about, total_of<double, Real>(spread));
      moments.square = total_of<Real, Real>(square);
      moments.square_dot = total_of<Real, Real>(square_dot);
    }
    return moments;
  }
};

template <class Storage, bool kExtras>
SoftmaxMoments<typename RealOf<Storage>::Type, kExtras> segment_moments(
    const Storage* z, int64_t columns, typename RealOf<Storage>::Type log2_scale) {
  using Real = typename RealOf<Storage>::Type;
  Accumulators<Real, kExtras> accumulators;
  int64_t begin = 0;
  for (; begin + kTile<Real> <= columns; begin += kTile<Real>) {
    accumulators.push_tile(z + begin, log2_scale);
  }
  if (begin < columns) {
    // The rest of the segment, filled up with −∞, which adds nothing and is not counted.
    Real rest[kTile<Real>];
    for (int64_t i = 0; i < kTile<Real>; ++i) {
      rest[i] = begin + i < columns ? widen(z[begin + i]) : negative_infinity<Real>();
    }
    accumulators.push_tile(rest, log2_scale);
  }
  return accumulators.total();
}

// One row, or one segment of a row where `segments` rows share it.
template <class Params, class Storage>
struct Row {
  using Real = typename RealOf<Storage>::Type;
  const Storage* z;
  TemperatureScale<Real> scale;
  int64_t token;

  ENTROPY_INLINE Row(const Params& params, int64_t row)
      : z(static_cast<const Storage*>(params.logits) + row_offset(params.layout, row)),
        scale(static_cast<const Real*>(params.temperature)[row * params.temperature_stride]),
        token(params.tokens[row]) {}
};

template <class Params>
ENTROPY_INLINE bool masked(const Params& params, int64_t row) {
  return params.mask != nullptr && !params.mask[row];
}

template <class Storage, bool kExtras>
void forward(const TokenStatsForward& params, int threads) {
  using Real = typename RealOf<Storage>::Type;
  using Moments = SoftmaxMoments<Real, kExtras>;
  using RowOf = Row<TokenStatsForward, Storage>;
  const int64_t segments = (params.vocab + kSegment - 1) / kSegment;
  const auto moments_of = [&](const RowOf& row, int64_t s) {
    const int64_t begin = s * kSegment;
    return segment_moments<Storage, kExtras>(
        row.z + begin, std::min(kSegment, params.vocab - begin), row.scale.log2);
  };
  const auto finish = [&](const RowOf& row, int64_t r, const Moments& moments) {
    write_row<Real, kExtras>(params, r, moments, row.scale, widen(row.z[row.token]));
  };

  if (params.rows >= 2 * threads || segments == 1) {
    const int64_t grain = std::max<int64_t>(1, params.rows / (16 * threads));
#pragma omp parallel for num_threads(threads) schedule(dynamic, grain)
    for (int64_t r = 0; r < params.rows; ++r) {
      if (masked(params, r)) {
        write_constant_row<Real, kExtras>(params, r, Real(0));
        continue;
      }
      const RowOf row(params, r);
      Moments moments = moments_of(row, 0);
      for (int64_t s = 1; s < segments; ++s) merge(moments, moments_of(row, s), row.scale.log2);
      finish(row, r, moments);
    }
    return;
  }

  // Fewer rows than would keep the threads busy: share the segments, then merge each row's in order.
  const std::unique_ptr<Moments[]> partial(new Moments[params.rows * segments]);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
  for (int64_t item = 0; item < params.rows * segments; ++item) {
    const int64_t r = item / segments;
    if (!masked(params, r)) partial[item] = moments_of(RowOf(params, r), item % segments);
  }
  for (int64_t r = 0; r < params.rows; ++r) {
    if (masked(params, r)) {
      write_constant_row<Real, kExtras>(params, r, Real(0));
      continue;
    }
    const RowOf row(params, r);
    Moments moments = partial[r * segments];
    for (int64_t s = 1; s < segments; ++s) {
      merge(moments, partial[r * segments + s], row.scale.log2);
    }
    finish(row, r, moments);
  }
}

template <class Storage>
ENTROPY_INLINE Vector<typename RealOf<Storage>::Type> gradient_of(
    Vector<typename RealOf<Storage>::Type> z,
    const RowGradient<typename RealOf<Storage>::Type>& row) {
  using Real = typename RealOf<Storage>::Type;
  Vector<Real> log2_p =
      fused(z - splat(row.row_max), splat(row.log2_scale), splat(-row.log2_sum));
  const Vector<Real> p = exp2_guarded<Real>(log2_p);
  return p * fused(splat(row.slope), log2_p, splat(row.offset));
}

template <class Storage>
void segment_gradient(const Storage* z, int64_t columns,
                      const RowGradient<typename RealOf<Storage>::Type>& row, Storage* out) {
  using Real = typename RealOf<Storage>::Type;
  constexpr int kWidth = kLanes<Real>;
  int64_t i = 0;
  for (; i + kWidth <= columns; i += kWidth) store(gradient_of<Storage>(load(z + i), row), out + i);
  if (i == columns) return;
  Vector<Real> rest = splat(negative_infinity<Real>());
  for (int64_t j = i; j < columns; ++j) rest[j - i] = widen(z[j]);
  const Vector<Real> gradient = gradient_of<Storage>(rest, row);
  for (int64_t j = i; j < columns; ++j) narrow(gradient[j - i], out + j);
}

template <class Storage>
void backward(const TokenStatsBackward& params, int threads) {
  using Real = typename RealOf<Storage>::Type;
  const int64_t segments = (params.vocab + kSegment - 1) / kSegment;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t item = 0; item < params.rows * segments; ++item) {
    const int64_t r = item / segments;
    const int64_t begin = item % segments * kSegment;
    const int64_t columns = std::min(kSegment, params.vocab - begin);
    Storage* const out = static_cast<Storage*>(params.grad_logits) + r * params.vocab + begin;
    if (masked(params, r)) {
      std::memset(out, 0, columns * sizeof(Storage));
      continue;
    }
    const Row<TokenStatsBackward, Storage> row(params, r);
    const RowGradient<Real> gradient(params, r, row.scale);
    const Storage* const z = row.z + begin;
    segment_gradient<Storage>(z, columns, gradient, out);

    const int64_t t = row.token - begin;
    if (t < 0 || t >= columns || widen(z[t]) == negative_infinity<Real>()) continue;
    // The token's entry anew, so that a half-precision gradient is rounded once.
    const Real at_token = static_cast<const Real*>(params.grad_logp)[r] * row.scale.inverse;
    narrow(gradient_of<Storage>(splat(widen(z[t])), gradient)[0] + at_token, out + t);
  }
}

int64_t first_bad_row(const TokenStatsForward& params) {
  for (int64_t r = 0; r < params.rows; ++r) {
    if (masked(params, r)) continue;
    const int64_t at = r * params.temperature_stride;
    const bool good_temperature =
        params.dtype == Dtype::kFloat64
            ? TemperatureScale<double>::valid(static_cast<const double*>(params.temperature)[at])
            : TemperatureScale<float>::valid(static_cast<const float*>(params.temperature)[at]);
    if (!good_temperature || params.tokens[r] < 0 || params.tokens[r] >= params.vocab) return r;
  }
  return kNoBadRow;
}

template <class Storage>
void forward_of(const TokenStatsForward& params, int threads) {
  if (params.extras != nullptr) {
    forward<Storage, true>(params, threads);
  } else {
    forward<Storage, false>(params, threads);
  }
}

int64_t token_stats_forward(const TokenStatsForward& params, int threads) {
  const int64_t bad_row = first_bad_row(params);
  if (bad_row != kNoBadRow) return bad_row;
  switch (params.dtype) {
    case Dtype::kFloat32: forward_of<float>(params, threads); break;
    case Dtype::kFloat64: forward_of<double>(params, threads); break;
    case Dtype::kBFloat16: forward_of<BFloat16>(params, threads); break;
    case Dtype::kFloat16: forward_of<Float16>(params, threads); break;
  }
  return kNoBadRow;
}

void token_stats_backward(const TokenStatsBackward& params, int threads) {
  switch (params.dtype) {
    case Dtype::kFloat32: backward<float>(params, threads); break;
    case Dtype::kFloat64: backward<double>(params, threads); break;
    case Dtype::kBFloat16: backward<BFloat16>(params, threads); break;
    case Dtype::kFloat16: backward<Float16>(params, threads); break;
  }
}

}  // namespace entropy_ext::ENTROPY_EXT_ISA
