// The entry points that every instruction set's copy of the sources defines.
#pragma once

#include "../support_stats.h"
#include "../token_selection.h"
#include "../token_stats.h"

#define ENTROPY_DECLARE_ISA(isa)                                             \
  namespace isa {                                                            \
  int64_t token_stats_forward(const TokenStatsForward& params, int threads); \
  void token_stats_backward(const TokenStatsBackward& params, int threads);  \
  int64_t support_forward(const SupportForward& params, int threads);        \
  int64_t support_backward(const SupportBackward& params, int threads);      \
  int64_t token_moments(const TokenMoments& params, int threads);            \
  int64_t token_covariance(const TokenCovariance& params, int threads);      \
  void clipped_tokens(const ClippedTokens& params, int threads);             \
  int64_t select_pass(const TokenSelect& params, int pass, int threads);     \
  void select_mark(const TokenSelect& params, int threads);                  \
  void entropy_change(const EntropyChange& params, int threads);             \
  int64_t steer_range(const SteerWeights& params, int threads);              \
  void steer_weights(const SteerWeights& params, int threads);               \
  }

namespace entropy_ext {
#if defined(__x86_64__)
ENTROPY_DECLARE_ISA(v2)
ENTROPY_DECLARE_ISA(v3)
ENTROPY_DECLARE_ISA(v4)
#else
ENTROPY_DECLARE_ISA(baseline)
#endif
}  // namespace entropy_ext
