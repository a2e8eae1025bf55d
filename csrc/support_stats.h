// Plain structs and launchers of the statistics over the ids that a sampler kept. They run after
// token_stats_forward and token_stats_backward, on the same rows, and cost what is kept: the passes
// over the vocabulary do not know of them.
#pragma once

#include "token_stats.h"

namespace entropy_ext {

// Row r keeps ids[offsets[r]] … ids[offsets[r + 1] − 1], strictly increasing, and its token, listed
// or not. offsets and ids of masked rows are not looked at.
struct Support {
  const int64_t* offsets;  // [rows + 1], from 0 to count
  const int32_t* ids;      // [count]
  int64_t count;
};

// support_logp, support_entropy, and for the backward pass, over what is kept: max z, Σ = Σ exp((z −
// max z)/τ), and the entropy less ln Σ.
constexpr int kSupportStats = 5;

struct SupportForward {
  Dtype dtype;
  const void* logits;       // as in TokenStatsForward, and so are the next seven
  RowLayout layout;
  int64_t rows;
  int64_t vocab;
  const int64_t* tokens;
  const void* temperature;
  int64_t temperature_stride;
  const bool* mask;
  Support support;
  void* stats;              // Real [kSupportStats, rows], written
};

struct SupportBackward {
  TokenStatsBackward all;   // the pass over the vocabulary; its gradient is overwritten where kept
  Support support;
  const void* stats;        // Real [kSupportStats, rows], as the forward pass wrote them
  const void* grad_stats;   // Real [kSupportStats, rows], of which the first two rows are read
};

// The CPU functions return the first unmasked row whose support is malformed, or kNoBadRow. Tokens
// and temperatures have been checked by the pass over the vocabulary.
int64_t support_forward_cpu(const SupportForward& params, int threads);
int64_t support_backward_cpu(const SupportBackward& params, int threads);

// The CUDA launchers return nullptr, or what the runtime said. A row whose support is malformed is
// NaN, its gradient too.
const char* support_forward_cuda(const SupportForward& params, void* stream);
const char* support_backward_cuda(const SupportBackward& params, void* stream);

}  // namespace entropy_ext
