// Token statistics on the CPU. This file is compiled once per instruction set, each time into a
// namespace of its own (ENTROPY_EXT_ISA); dispatch.cpp picks one when the module is imported.
//
// A row is cut into segments of kSegment columns, a function of nothing, and a segment's moments
// are formed by one thread in one order. Threads share rows, or segments where rows are few; either
// way the segments of a row are merged from left to right, in double, so that neither the number of
// rows nor the number of threads changes a bit.
#include <omp.h>

#include <algorithm>
#include <memory>

#include "accumulators.h"
#include "gradient.h"
#include "isa.h"

namespace entropy_ext::ENTROPY_EXT_ISA {

constexpr int64_t kSegment = 16384;

template <class Storage, bool kExtras>
SoftmaxMoments<double, kExtras> segment_moments(
    const Storage* z, int64_t columns, typename RealOf<Storage>::Type log2_scale) {
  using Real = typename RealOf<Storage>::Type;
  Accumulators<Real, kExtras> accumulators;
  const int64_t whole = columns / kTile * kTile;
  if (whole > 0) {
    auto extremes = extremes_of<Real>(z);
    for (int64_t begin = 0; begin < whole; begin += kTile) {
      // The last tile looks at itself for want of a next one.
      const int64_t next = std::min(begin + kTile, whole - kTile);
      extremes = accumulators.push_tile(z + begin, extremes, z + next, log2_scale);
    }
  }
  if (whole < columns) {
    // The rest of the segment, filled up with −∞, which adds nothing and is not counted.
    Real rest[kTile];
    for (int64_t i = 0; i < kTile; ++i) {
      rest[i] = whole + i < columns ? widen(z[whole + i]) : negative_infinity<Real>();
    }
    accumulators.push_tile(rest, extremes_of<Real>(rest), rest, log2_scale);
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
      : z(logits_of<Storage>(params, row)),
        scale(temperature_of<Storage>(params, row)),
        token(params.tokens[row]) {}
};

template <class Storage, bool kExtras>
void forward(const TokenStatsForward& params, int threads) {
  using Real = typename RealOf<Storage>::Type;
  using Moments = SoftmaxMoments<double, kExtras>;
  using RowOf = Row<TokenStatsForward, Storage>;
  const int64_t segments = (params.vocab + kSegment - 1) / kSegment;
  const auto moments_of = [&](const RowOf& row, int64_t s) {
    const int64_t begin = s * kSegment;
    return segment_moments<Storage, kExtras>(
        row.z + begin, std::min(kSegment, params.vocab - begin), row.scale.log2);
  };
  const auto finish = [&](const RowOf& row, int64_t r, const Moments& moments) {
    write_row<Real, kExtras>(params, r, converted<Real>(moments), row.scale,
                             widen(row.z[row.token]));
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
      for (int64_t s = 1; s < segments; ++s) {
        merge(moments, moments_of(row, s), double{row.scale.log2});
      }
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
      merge(moments, partial[r * segments + s], double{row.scale.log2});
    }
    finish(row, r, moments);
  }
}

template <class Storage>
void segment_gradient(const Storage* z, int64_t columns,
                      const RowGradient<typename RealOf<Storage>::Type>& row, Storage* out) {
  using Real = typename RealOf<Storage>::Type;
  constexpr int kWidth = 2 * kLanes<Real>;
  const auto store_gradient = [&](const Storage* from, Storage* to) {
    const Pair<Real> x = load_pair(from);
    store_pair(Pair<Real>{gradient_of<Real>(x.first, row), gradient_of<Real>(x.second, row)}, to);
  };
  int64_t i = 0;
  for (; i + kWidth <= columns; i += kWidth) {
    prefetch<kWidth * sizeof(Storage)>(reinterpret_cast<const char*>(z + i) + kPrefetchBytes);
    store_gradient(z + i, out + i);
  }
  if (i == columns) return;
  Storage rest[kWidth] = {};
  std::copy(z + i, z + columns, rest);
  store_gradient(rest, rest);
  std::copy(rest, rest + (columns - i), out + i);
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
    // Read first: the gradient may be written over the logits.
    const int64_t t = row.token - begin;
    const bool here = t >= 0 && t < columns;
    const Real token_logit = here ? Real(widen(z[t])) : negative_infinity<Real>();
    segment_gradient<Storage>(z, columns, gradient, out);

    if (token_logit == negative_infinity<Real>()) continue;
    // The token's entry anew, so that a half-precision gradient is rounded once.
    const Real at_token = gradient_of<Real>(splat(token_logit), gradient)[0];
    narrow(at_token + gradient.at_token, out + t);
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
