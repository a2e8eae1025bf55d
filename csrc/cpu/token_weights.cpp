// What is computed token by token on the CPU: where the PPO clip binds, the change of the entropy,
// and the STEER weights; compiled once per instruction set.
#include <omp.h>

#include <limits>

#include "../selection_math.h"
#include "isa.h"
#include "token_vectors.h"

namespace entropy_ext::ENTROPY_EXT_ISA {
namespace {

template <class Real>
const Real* reals(const void* p) {
  return static_cast<const Real*>(p);
}

template <class Real>
void clipped(const ClippedTokens& params, int threads) {
  const ClipRange range(params.clip_low, params.clip_high);
  const Real* const logp = reals<Real>(params.logp);
  const Real* const old_logp = reals<Real>(params.old_logp);
  const Real* const advantages = reals<Real>(params.advantages);
  for_each_chunk(params.count, threads, [&](int64_t, int64_t begin, int64_t end) -> int64_t {
    for (int64_t i = begin; i < end; ++i) {
      const double log_ratio = static_cast<double>(logp[i]) - static_cast<double>(old_logp[i]);
      params.clipped[i] = range.binds(log_ratio, static_cast<double>(advantages[i]));
    }
    if (params.mask != nullptr) {
      for (int64_t i = begin; i < end; ++i) params.clipped[i] &= params.mask[i];
    }
    return -1;
  });
}

template <class Real>
void change(const EntropyChange& params, int threads) {
  for_each_chunk(params.count, threads, [&](int64_t, int64_t begin, int64_t end) -> int64_t {
    for_each_vector(begin, end, [&](int64_t i, int64_t n) {
      const Doubles ratio =
          params.ratio == nullptr ? splat(1.0) : load_tokens(reals<Real>(params.ratio) + i, n);
      const Doubles value = entropy_change_of(
          Exponential(), load_tokens(reals<Real>(params.logp) + i, n),
          load_tokens(reals<Real>(params.entropy) + i, n),
          load_tokens(reals<Real>(params.collision) + i, n),
          load_tokens(reals<Real>(params.collision_logp) + i, n),
          load_tokens(reals<Real>(params.advantages) + i, n), ratio);
      store_tokens(value, static_cast<Real*>(params.change) + i, n);
    });
    return -1;
  });
}

// |Ω| of the tokens at i, rounded to Real; NaN where an input that the form reads is not finite.
template <class Real, SteerForm kForm>
ENTROPY_INLINE Doubles steer_size(const SteerWeights& params, int64_t i, int64_t n) {
  const Doubles logp = load_tokens(reals<Real>(params.logp) + i, n);
  const Doubles old_logp = load_tokens(reals<Real>(params.old_logp) + i, n);
  const Doubles entropy = load_tokens(reals<Real>(params.entropy) + i, n);
  const Doubles advantages = load_tokens(reals<Real>(params.advantages) + i, n);
  Doubles collision = {};
  Doubles collision_logp = {};
  if constexpr (kForm == SteerForm::kExact) {
    collision = load_tokens(reals<Real>(params.collision) + i, n);
    collision_logp = load_tokens(reals<Real>(params.collision_logp) + i, n);
  }
  const Doubles finite = (unless_finite(logp) + unless_finite(old_logp)) +
                         (unless_finite(entropy) + unless_finite(advantages)) +
                         (unless_finite(collision) + unless_finite(collision_logp));
  const Doubles value = steer_change(kForm, Exponential(), logp, old_logp, entropy, advantages,
                                     collision, collision_logp);
  const Doubles size = (value < Doubles{} ? -value : value) + finite;
  if constexpr (sizeof(Real) == sizeof(double)) return size;
  return __builtin_convertvector(__builtin_convertvector(size, HalfFloats), Doubles);
}

template <class Real>
int64_t first_bad_size(const SteerWeights& params, int64_t begin, int64_t end) {
  const Real* const sizes = reals<Real>(params.weights);
  for (int64_t i = begin; i < end; ++i) {
    if (!(sizes[i] < std::numeric_limits<Real>::infinity())) return i;
  }
  return -1;
}

template <class Real, SteerForm kForm>
int64_t steer_range_of(const SteerWeights& params, int threads) {
  int64_t greatest_bits = 0;
  int64_t least_bits = 0;  // INT64_MAX less the bits of the least
  const int64_t bad = for_each_chunk(
      params.count, threads, [&](int64_t, int64_t begin, int64_t end) -> int64_t {
        Doubles greatest = {};
        Doubles least = splat(-negative_infinity<double>());
        DoubleMask rejected = {};
        for_each_vector(begin, end, [&](int64_t i, int64_t n) {
          const DoubleMask valid = load_valid(params.mask, i, n);
          const Doubles size = valid ? steer_size<Real, kForm>(params, i, n) : Doubles{};
          store_tokens(size, static_cast<Real*>(params.weights) + i, n);
          const DoubleMask finite = unless_finite(size) == Doubles{};
          rejected = rejected | ~finite;
          const DoubleMask good = valid & finite;
          greatest = maximum(good ? size : Doubles{}, greatest);
          least = minimum(good ? size : splat(-negative_infinity<double>()), least);
        });
        int64_t chunk_greatest = 0;
        int64_t chunk_least = 0;
        for (int lane = 0; lane < kTokens; ++lane) {
          const int64_t high = bit_cast<int64_t>(static_cast<double>(greatest[lane]));
          const double low = least[lane];
          chunk_greatest = std::max(chunk_greatest, high);
          if (low < -negative_infinity<double>()) {
            chunk_least = std::max(chunk_least, INT64_MAX - bit_cast<int64_t>(low));
          }
        }
#pragma omp critical(steer_range)
        {
          greatest_bits = std::max(greatest_bits, chunk_greatest);
          least_bits = std::max(least_bits, chunk_least);
        }
        return any(rejected) ? first_bad_size<Real>(params, begin, end) : -1;
      });
  params.range[0] = std::max(params.range[0], greatest_bits);
  params.range[1] = std::max(params.range[1], least_bits);
  return bad;
}

template <class Real>
int64_t steer_range_in(const SteerWeights& params, int threads) {
  switch (params.form) {
    case SteerForm::kCode: return steer_range_of<Real, SteerForm::kCode>(params, threads);
    case SteerForm::kOwnLogit: return steer_range_of<Real, SteerForm::kOwnLogit>(params, threads);
    default: return steer_range_of<Real, SteerForm::kExact>(params, threads);
  }
}

template <class Real>
void steer_map(const SteerWeights& params, int threads) {
  const SteerMap map(params);
  Real* const weights = static_cast<Real*>(params.weights);
  for_each_chunk(params.count, threads, [&](int64_t, int64_t begin, int64_t end) -> int64_t {
    for_each_vector(begin, end, [&](int64_t i, int64_t n) {
      const DoubleMask valid = load_valid(params.mask, i, n);
      const Doubles weight = map(Exponential(), load_tokens(weights + i, n));
      store_tokens(valid ? weight : Doubles{}, weights + i, n);
    });
    return -1;
  });
}

}  // namespace

void clipped_tokens(const ClippedTokens& params, int threads) {
  params.dtype == Dtype::kFloat64 ? clipped<double>(params, threads)
                                  : clipped<float>(params, threads);
}

void entropy_change(const EntropyChange& params, int threads) {
  params.dtype == Dtype::kFloat64 ? change<double>(params, threads)
                                  : change<float>(params, threads);
}

int64_t steer_range(const SteerWeights& params, int threads) {
  return params.dtype == Dtype::kFloat64 ? steer_range_in<double>(params, threads)
                                         : steer_range_in<float>(params, threads);
}

void steer_weights(const SteerWeights& params, int threads) {
  params.dtype == Dtype::kFloat64 ? steer_map<double>(params, threads)
                                  : steer_map<float>(params, threads);
}

}  // namespace entropy_ext::ENTROPY_EXT_ISA
