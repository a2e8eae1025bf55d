// Statistics over the kept ids on the CPU: gathered some at a time, then treated as columns are.
// Compiled once per instruction set, as token_stats.cpp is.
#include <omp.h>

#include <algorithm>

#include "../kept_ids.h"
#include "accumulators.h"
#include "gradient.h"
#include "isa.h"

namespace entropy_ext::ENTROPY_EXT_ISA {

constexpr int kGathered = 1024;
// Gathered logits are filled up with −∞ to a multiple of this.
template <class Real>
constexpr int kUnit = kChains * kLanes<Real>;

// Call visit(logits, begin, count, padded) for up to kGathered kept ids at a time, the first of them
// kept[begin]. Where their gradients are to be written, those cache lines are asked for meanwhile.
template <class Storage, class Visit>
ENTROPY_INLINE void for_each_gathered(const Storage* z, const KeptIds& kept, Storage* out,
                                      Visit visit) {
  using Real = typename RealOf<Storage>::Type;
  Real gathered[kGathered];
  for (int begin = 0; begin < kept.size(); begin += kGathered) {
    const int count = std::min(kGathered, kept.size() - begin);
    const int padded = (count + kUnit<Real> - 1) / kUnit<Real> * kUnit<Real>;
    for (int i = 0; i < count; ++i) {
      const int32_t id = kept[begin + i];
      if (out != nullptr) __builtin_prefetch(out + id, 1);
      gathered[i] = widen(z[id]);
    }
    std::fill(gathered + count, gathered + padded, negative_infinity<Real>());
    visit(gathered, begin, count, padded);
  }
}

// In double, so that a set of many gatherings loses no digits where they meet.
template <class Real>
SoftmaxMoments<double, false> moments_of(const Real* z, int columns, Real log2_scale) {
  const int pairs = columns / (2 * kLanes<Real>);
  Extremes<Real> extremes;
  for_each_pair<Real>(z, pairs, [&](int, int, const Pair<Real>& x) { extremes.push(x); });
  const Real max = extremes.max();
  const Real centre = max == negative_infinity<Real>() ? Real(0) : max;

  Vector<Real> sum[kChains] = {};
  Vector<Real> dot[kChains] = {};
  Mask<Real> live = {};
  for_each_pair<Real>(z, pairs, [&](int, int chain, const Pair<Real>& x) {
    for (int h = 0; h < 2; ++h) {
      const Vector<Real> logits = h == 0 ? x.first : x.second;
      Vector<Real> u = (logits - splat(centre)) * splat(log2_scale);
      const Vector<Real> e = exp2_guarded<Real>(u);
      sum[chain + h] = sum[chain + h] + e;
      dot[chain + h] = fused(e, u, dot[chain + h]);
      live = live - (logits > splat(negative_infinity<Real>()));  // a true lane is −1
    }
  });
  SoftmaxMoments<double, false> moments;
  moments.max = max;
  moments.sum = total_of<double, Real>(sum);
  moments.dot = total_of<double, Real>(dot);
  for (int i = 0; i < kLanes<Real>; ++i) moments.live += static_cast<int32_t>(live[i]);
  return moments;
}

// Call visit(row, kept) for the rows that count. Returns the first whose support is malformed.
template <class Storage, class Params, class Visit>
int64_t for_each_row(const Params& params, const Support& support, int threads, Visit visit) {
  int64_t bad_row = params.rows;
#pragma omp parallel for num_threads(threads) schedule(static) reduction(min : bad_row)
  for (int64_t r = 0; r < params.rows; ++r) {
    if (!row_counts<Storage>(params, r)) continue;
    if (offsets_hold(support, params.rows, params.vocab, r)) {
      const KeptIds kept(support, r, params.tokens[r]);
      if (kept.all_hold(params.vocab)) {
        visit(r, kept);
        continue;
      }
    }
    bad_row = std::min(bad_row, r);
  }
  return bad_row < params.rows ? bad_row : kNoBadRow;
}

template <class Storage>
int64_t forward(const SupportForward& params, int threads) {
  using Real = typename RealOf<Storage>::Type;
  Real* const stats = static_cast<Real*>(params.stats);
  // Of masked rows.
  std::fill(stats, stats + kSupportStats * params.rows, Real(0));
  return for_each_row<Storage>(params, params.support, threads, [&](int64_t r, const KeptIds& kept) {
    const Storage* const z = logits_of<Storage>(params, r);
    const TemperatureScale<Real> scale(temperature_of<Storage>(params, r));
    SoftmaxMoments<double, false> moments;
    for_each_gathered<Storage>(z, kept, nullptr, [&](const Real* logits, int, int, int padded) {
      merge(moments, moments_of(logits, padded, scale.log2), double{scale.log2});
    });
    write_support_row<Real>(params, r, converted<Real>(moments), scale,
                            widen(z[params.tokens[r]]));
  });
}

template <class Storage>
int64_t backward(const SupportBackward& params, int threads) {
  using Real = typename RealOf<Storage>::Type;
  const TokenStatsBackward& all = params.all;
  return for_each_row<Storage>(all, params.support, threads, [&](int64_t r, const KeptIds& kept) {
    const Storage* const z = logits_of<Storage>(all, r);
    Storage* const out = static_cast<Storage*>(all.grad_logits) + r * all.vocab;
    const TemperatureScale<Real> scale(temperature_of<Storage>(all, r));
    const RowGradient<Real> whole(all, r, scale);
    const RowGradient<Real> part = support_gradient(params, r, scale);
    // Entries anew, rather than added to what is there: half precision is rounded once.
    for_each_gathered<Storage>(z, kept, out, [&](Real* logits, int begin, int count, int padded) {
      for (int i = 0; i < padded; i += kLanes<Real>) {
        Vector<Real> x;
        std::memcpy(&x, logits + i, kVectorBytes);
        x = gradient_of<Real>(x, whole) + gradient_of<Real>(x, part);
        std::memcpy(logits + i, &x, kVectorBytes);
      }
      for (int i = 0; i < count; ++i) narrow(logits[i], out + kept[begin + i]);
    });
    const int64_t token = all.tokens[r];
    const Real token_logit = widen(z[token]);
    if (token_logit == negative_infinity<Real>()) return;
    const Vector<Real> here = splat(token_logit);
    narrow((gradient_of<Real>(here, whole)[0] + whole.at_token) +
               (gradient_of<Real>(here, part)[0] + part.at_token),
           out + token);
  });
}

int64_t support_forward(const SupportForward& params, int threads) {
  switch (params.dtype) {
    case Dtype::kFloat32: return forward<float>(params, threads);
    case Dtype::kFloat64: return forward<double>(params, threads);
    case Dtype::kBFloat16: return forward<BFloat16>(params, threads);
    case Dtype::kFloat16: return forward<Float16>(params, threads);
  }
  return kNoBadRow;
}

int64_t support_backward(const SupportBackward& params, int threads) {
  switch (params.all.dtype) {
    case Dtype::kFloat32: return backward<float>(params, threads);
    case Dtype::kFloat64: return backward<double>(params, threads);
    case Dtype::kBFloat16: return backward<BFloat16>(params, threads);
    case Dtype::kFloat16: return backward<Float16>(params, threads);
  }
  return kNoBadRow;
}

}  // namespace entropy_ext::ENTROPY_EXT_ISA
