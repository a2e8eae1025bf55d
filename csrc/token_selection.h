// Plain structs and launchers of what works on one number per token: moments, covariance, selection
// and weights. Arrays hold `count` tokens, flat and contiguous; "Real" is float or double, by dtype.
//
// A token is valid where its mask is set (nullptr: everywhere). What stands at the others is never
// looked at, so that padding may hold anything.
#pragma once

#include <cstdint>

#include "token_stats.h"

namespace entropy_ext {

// Sums over the valid tokens with finite logp and advantage, as unevaluated pairs high + low: exact
// for float32 values within 2^±20 of each other, so that no order of tokens, no split into
// micro-batches and no number of ranks changes a bit of what follows from them.
struct MomentSums {
  double counted;               // valid tokens, finite in both
  double skipped;               // valid tokens that are not
  double logp[2];               // Σ logp
  double advantage[2];          // Σ A
  double logp_square[2];        // Σ logp²
  double advantage_square[2];   // Σ A²
  double product[2];            // Σ logp·A
};
constexpr int kMomentSums = sizeof(MomentSums) / sizeof(double);

struct TokenMoments {
  Dtype dtype;
  int64_t count;
  const void* logp;        // Real [count]
  const void* advantages;  // Real [count]
  const bool* mask;        // [count] or nullptr
  MomentSums* sums;        // [1], written
  MomentSums* scratch;     // CUDA only: [moment_blocks(count)]
};

// Sums of several calls or ranks, added in an order that their number alone decides.
struct MergeMoments {
  int64_t count;
  const MomentSums* parts;  // [count]
  MomentSums* sums;         // [1], written
};

// (logp − mean logp)·(A − mean A): 0 where not valid, NaN where either is not finite.
struct TokenCovariance {
  Dtype dtype;
  int64_t count;
  const void* logp;
  const void* advantages;
  const bool* mask;
  const MomentSums* sums;
  void* covariance;  // Real [count], written
};

// Where the PPO clip binds: −A·clip(ρ, 1 − low, 1 + high) > −A·ρ,
// ρ = exp(clamp(logp − old_logp, ±20)).
struct ClippedTokens {
  Dtype dtype;
  int64_t count;
  const void* logp;
  const void* old_logp;
  const void* advantages;
  const bool* mask;
  double clip_low;
  double clip_high;
  bool* clipped;  // [count], written
};

// How many of the N valid tokens are chosen; at most as many as there are candidates.
enum class SelectCount : int {
  kFloor = 0,     // max(⌊fraction·N⌋, 1)
  kCeil = 1,      // max(⌊fraction·N + 0.9999⌋, 1), the rounding of the 80/20 paper's code
  kQuantile = 2,  // N − ⌈(1 − fraction)(N − 1)⌉: the values at or above the quantile, ties included
};

// Which come first.
enum class SelectOrder : int {
  kLargest = 0,  // by value, descending; equal values by token id, ascending (kQuantile: all)
  kRandom = 1,   // by a hash of (seed, token id), distinct for distinct ids
};

// Radix selection on order-preserving keys, kDigitBits at a time: pass d counts, among the
// candidates that agree with the threshold so far, the values of digit d; the next pass (or the
// mark) finds in those counts which digit the threshold has. Candidates are valid tokens whose
// value is within() low and high, and that are not excluded. states[d + 1] is what pass d found;
// the next pass or the mark writes it, for the counts may have been summed over ranks in between.
//
// Counts are integers, so their order of addition is free: they may be summed over blocks, threads
// and, between passes, over ranks.
constexpr int kDigitBits = 11;
constexpr int kBins = 1 << kDigitBits;
constexpr int kCounters = kBins + 1;  // the last one, in pass 0: the valid tokens, N
constexpr int64_t kSelectRange = 65536;

// The threshold after some passes: which keys are below it, which agree with it so far.
struct SelectState {
  int64_t need;      // how many to choose among the candidates that agree
  int64_t digits;    // of the threshold, known so far
  int64_t resolved;  // 1: all that agree are chosen (or none remain to be); later passes do nothing
  uint64_t value;    // the known digits of the value key, right-aligned
  uint64_t id;       // the known digits of the id key, right-aligned
};
constexpr int kStateWords = sizeof(SelectState) / sizeof(int64_t);

struct TokenSelect {
  Dtype dtype;
  SelectOrder order;
  SelectCount rule;
  int64_t count;
  const void* values;        // Real [count]
  const bool* mask;          // [count] or nullptr
  const bool* excluded;      // [count] or nullptr
  const int64_t* token_ids;  // [count], or nullptr: the positions
  const int64_t* seed;       // [1]; kRandom only
  double low;                // strict bounds; ∓infinity: none
  double high;
  double fraction;           // in [0, 1]
  int64_t* counters;         // [select_passes, kCounters], zero before pass 0
  SelectState* states;       // [select_passes + 1]
  bool* selected;            // [count], written by the mark
  uint16_t* digits;          // CPU only: [count], of pass 0
  uint16_t* agreeing;        // CPU only: [count], offsets in ranges of kSelectRange tokens
  int64_t* agreed;           // CPU only: [⌈count / kSelectRange⌉], how many of them
};

// Passes of a selection, digits of the value key and then of the id key where ties are broken by
// it, are counted by select_passes() of selection_math.h: a function of dtype, order, rule and,
// without ids, count, so that all ranks agree.

// First-order change of the entropy per unit step along ρ·A·(e_token − p) on the scaled logits z/τ:
// −ρ·A·(S − Σ p²(ln p + H)), S = p(ln p + H) of the token, 0 for p = 0. 0 in a masked row, which is
// told by its collision: 0 there, and at least 1/V elsewhere.
struct EntropyChange {
  Dtype dtype;
  int64_t count;
  const void* logp;
  const void* entropy;
  const void* collision;
  const void* collision_logp;
  const void* advantages;
  const void* ratio;  // Real [count] or nullptr: 1
  void* change;       // Real [count], written
};

enum class SteerForm : int { kCode = 0, kOwnLogit = 1, kExact = 2 };
enum class WeightMap : int { kExp = 0, kLinear = 1 };

// Two launches. The first writes M = |Ω| of the valid tokens, rounded to Real, in place of the
// weights, and finds its range; where an input that the form reads is not finite, on CUDA, M is NaN
// and the range does without it. The second turns M into weights: 0 where not valid, NaN from NaN.
// A number that is not negative has the order of its bits, so the range is kept as integers, for
// which a maximum may be taken in any order, over threads and over ranks.
struct SteerWeights {
  Dtype dtype;
  SteerForm form;
  WeightMap map;
  int64_t count;
  const void* logp;
  const void* old_logp;
  const void* entropy;
  const void* advantages;
  const bool* mask;
  const void* collision;       // Real [count]; kExact only
  const void* collision_logp;  // Real [count]; kExact only
  double lambda_min;
  double lambda_max;
  double floor;
  int64_t* range;              // [2] bits of the greatest M (as double), INT64_MAX − bits of the
                               // least; zero before
  void* weights;               // Real [count]: M between the launches
};

// The CPU functions; those that return a position return the first valid token with an input that
// is not finite (pass 0: that is NaN), or −1.
int64_t token_moments_cpu(const TokenMoments& params, int threads);
void merge_moments_cpu(const MergeMoments& params);
int64_t token_covariance_cpu(const TokenCovariance& params, int threads);
void clipped_tokens_cpu(const ClippedTokens& params, int threads);
int64_t select_pass_cpu(const TokenSelect& params, int pass, int threads);
void select_mark_cpu(const TokenSelect& params, int threads);
void entropy_change_cpu(const EntropyChange& params, int threads);
int64_t steer_range_cpu(const SteerWeights& params, int threads);
void steer_weights_cpu(const SteerWeights& params, int threads);

// The CUDA launchers return nullptr, or what the runtime said.
int64_t moment_blocks(int64_t count);
const char* token_moments_cuda(const TokenMoments& params, void* stream);
const char* merge_moments_cuda(const MergeMoments& params, void* stream);
const char* token_covariance_cuda(const TokenCovariance& params, void* stream);
const char* clipped_tokens_cuda(const ClippedTokens& params, void* stream);
const char* select_pass_cuda(const TokenSelect& params, int pass, void* stream);
const char* select_mark_cuda(const TokenSelect& params, void* stream);
const char* entropy_change_cuda(const EntropyChange& params, void* stream);
const char* steer_range_cuda(const SteerWeights& params, void* stream);
const char* steer_weights_cuda(const SteerWeights& params, void* stream);

}  // namespace entropy_ext
