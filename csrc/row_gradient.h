// The gradient of one row's logits, once its constants are known, stated once for both devices.
#pragma once

#include "softmax_moments.h"

namespace entropy_ext {

// Any NaN becomes the one without a payload, which half-precision rounding cannot turn into a number.
template <class Real>
ENTROPY_INLINE Real canonical(Real x) {
  return x == x ? x : not_a_number<Real>();
}

// dz = e·(slope·u + offset) with e = 2^u, u = (z − row_max)·log2_scale, plus g_logp/τ on the token's
// entry: the gradient of any combination of logp, entropy and lse. The probability e/Σ is never
// formed by way of ln Σ, whose rounding, at the size of the logits' spread, would be its error.
template <class Real>
struct RowGradient {
  Real row_max;
  Real log2_scale;
  Real slope;
  Real offset;
  Real at_token;

  ENTROPY_INLINE RowGradient(const TokenStatsBackward& params, int64_t row,
                             const TemperatureScale<Real>& scale)
      : RowGradient(scale, static_cast<const Real*>(params.row_max)[row],
                    static_cast<const Real*>(params.row_sum)[row],
                    static_cast<const Real*>(params.entropy)[row] -
                        natural_log(static_cast<const Real*>(params.row_sum)[row]),
                    static_cast<const Real*>(params.grad_logp)[row],
                    static_cast<const Real*>(params.grad_entropy)[row],
                    static_cast<const Real*>(params.grad_lse)[row]) {}

  // H + ln p = H − ln Σ + t, of which `entropy_less_log_sum` is constant over the row.
  ENTROPY_INLINE RowGradient(const TemperatureScale<Real>& scale, Real max, Real row_sum,
                             Real entropy_less_log_sum, Real g_logp, Real g_entropy, Real g_lse)
      : row_max(max), log2_scale(scale.log2) {
    const Real per_sum = scale.inverse / row_sum;
    slope = canonical(-g_entropy * Constants<Real>::kLn2 * per_sum);
    offset = canonical(fused(-g_entropy, entropy_less_log_sum, g_lse - g_logp) * per_sum);
    at_token = g_logp * scale.inverse;
  }
};

}  // namespace entropy_ext
