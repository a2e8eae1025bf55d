// Moments of logp and advantages and the covariance of each token on the CPU; compiled once per
// instruction set.
//
// Each lane of a vector keeps sums of its own over a chunk of tokens; lanes, then chunks, are added
// in their order, so that the number of threads changes no bit.
#include <omp.h>

#include <memory>

#include "../selection_math.h"
#include "isa.h"
#include "token_vectors.h"

namespace entropy_ext::ENTROPY_EXT_ISA {
namespace {

// x·y − fl(x·y), exact. Of floats the product is exact in double already.
template <class Real>
ENTROPY_INLINE Doubles product_error(Doubles x, Doubles y, Doubles product) {
#if defined(__AVX2__)
  return fused(x, y, -product);
#else
  Doubles error;
  for (int i = 0; i < kTokens; ++i) error[i] = fma(x[i], y[i], -product[i]);
  return error;
#endif
}

template <class Real>
struct LaneSums {
  DoubleMask counted = {};
  Doubles logp[2] = {};
  Doubles advantage[2] = {};
  Doubles logp_square[2] = {};
  Doubles advantage_square[2] = {};
  Doubles product[2] = {};

  ENTROPY_INLINE static void add_product(Doubles (&sum)[2], Doubles x, Doubles y) {
    const Doubles xy = x * y;
    add_exactly(sum, xy);
    if constexpr (sizeof(Real) == sizeof(double)) add_exactly(sum, product_error<Real>(x, y, xy));
  }

  ENTROPY_INLINE void push(DoubleMask good, Doubles x, Doubles a) {
    counted = counted - good;
    add_exactly(logp, x);
    add_exactly(advantage, a);
    add_product(logp_square, x, x);
    add_product(advantage_square, a, a);
    add_product(product, x, a);
  }

  ENTROPY_INLINE static void add_lane(double (&into)[2], const Doubles (&sum)[2], int lane) {
    add_exactly(into, static_cast<double>(sum[0][lane]));
    add_exactly(into, static_cast<double>(sum[1][lane]));
  }

  MomentSums total() const {
    MomentSums sums{};
    for (int i = 0; i < kTokens; ++i) {
      sums.counted += static_cast<double>(counted[i]);
      add_lane(sums.logp, logp, i);
      add_lane(sums.advantage, advantage, i);
      add_lane(sums.logp_square, logp_square, i);
      add_lane(sums.advantage_square, advantage_square, i);
      add_lane(sums.product, product, i);
    }
    return sums;
  }
};

template <class Real>
int64_t first_bad_token(const Real* logp, const Real* advantages, const bool* mask, int64_t begin,
                        int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    const Real finite = (logp[i] - logp[i]) + (advantages[i] - advantages[i]);
    if ((mask == nullptr || mask[i]) && finite != Real(0)) return i;
  }
  return -1;
}

template <class Real>
int64_t moments(const TokenMoments& params, int threads) {
  const Real* const logp = static_cast<const Real*>(params.logp);
  const Real* const advantages = static_cast<const Real*>(params.advantages);
  const std::unique_ptr<MomentSums[]> partial(new MomentSums[chunks_of(params.count)]);
  const int64_t bad = for_each_chunk(
      params.count, threads, [&](int64_t chunk, int64_t begin, int64_t end) -> int64_t {
        LaneSums<Real> sums;
        DoubleMask rejected = {};
        for_each_vector(begin, end, [&](int64_t i, int64_t n) {
          const Doubles x = load_tokens(logp + i, n);
          const Doubles a = load_tokens(advantages + i, n);
          const DoubleMask valid = load_valid(params.mask, i, n);
          const DoubleMask finite = unless_finite(x) + unless_finite(a) == Doubles{};
          const DoubleMask good = valid & finite;
          rejected = rejected | (valid & ~finite);
          sums.push(good, good ? x : Doubles{}, good ? a : Doubles{});
        });
        partial[chunk] = sums.total();
        if (!any(rejected)) return -1;
        return first_bad_token(logp, advantages, params.mask, begin, end);
      });
  *params.sums = MomentSums{};
  for (int64_t c = 0; c < chunks_of(params.count); ++c) add_sums(*params.sums, partial[c]);
  return bad;
}

template <class Real>
int64_t covariance(const TokenCovariance& params, int threads) {
  const Real* const logp = static_cast<const Real*>(params.logp);
  const Real* const advantages = static_cast<const Real*>(params.advantages);
  const double mean_logp = mean_of(params.sums->logp, params.sums->counted);
  const double mean_advantage = mean_of(params.sums->advantage, params.sums->counted);
  return for_each_chunk(
      params.count, threads, [&](int64_t, int64_t begin, int64_t end) -> int64_t {
        DoubleMask rejected = {};
        for_each_vector(begin, end, [&](int64_t i, int64_t n) {
          const Doubles x = load_tokens(logp + i, n);
          const Doubles a = load_tokens(advantages + i, n);
          const DoubleMask valid = load_valid(params.mask, i, n);
          rejected = rejected | (valid & (unless_finite(x) + unless_finite(a) != Doubles{}));
          const Doubles value = covariance_of(x, a, mean_logp, mean_advantage);
          store_tokens(valid ? value : Doubles{}, static_cast<Real*>(params.covariance) + i, n);
        });
        if (!any(rejected)) return -1;
        return first_bad_token(logp, advantages, params.mask, begin, end);
      });
}

}  // namespace

int64_t token_moments(const TokenMoments& params, int threads) {
  return params.dtype == Dtype::kFloat64 ? moments<double>(params, threads)
                                         : moments<float>(params, threads);
}

int64_t token_covariance(const TokenCovariance& params, int threads) {
  return params.dtype == Dtype::kFloat64 ? covariance<double>(params, threads)
                                         : covariance<float>(params, threads);
}

}  // namespace entropy_ext::ENTROPY_EXT_ISA
