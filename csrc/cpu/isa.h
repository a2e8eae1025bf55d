// The entry points that every instruction set's copy of token_stats.cpp defines.
#pragma once

#include "../token_stats.h"

#define ENTROPY_DECLARE_ISA(isa)                                             \
  namespace isa {                                                            \
  int64_t token_stats_forward(const TokenStatsForward& params, int threads); \
  void token_stats_backward(const TokenStatsBackward& params, int threads);  \
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
