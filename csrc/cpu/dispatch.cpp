// Chooses an instruction set once: the best the processor has, or the one ENTROPY_EXT_ISA names.
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "isa.h"

namespace entropy_ext {
namespace {

struct Implementation {
  const char* name;
  bool usable;
  decltype(&token_stats_forward_cpu) forward;
  decltype(&token_stats_backward_cpu) backward;
  decltype(&support_forward_cpu) support_forward;
  decltype(&support_backward_cpu) support_backward;
  decltype(&token_moments_cpu) token_moments;
  decltype(&token_covariance_cpu) token_covariance;
  decltype(&clipped_tokens_cpu) clipped_tokens;
  decltype(&select_pass_cpu) select_pass;
  decltype(&select_mark_cpu) select_mark;
  decltype(&entropy_change_cpu) entropy_change;
  decltype(&steer_range_cpu) steer_range;
  decltype(&steer_weights_cpu) steer_weights;
};

#define ENTROPY_IMPLEMENTATION(isa, usable)                                             \
  {                                                                                     \
    #isa, usable, isa::token_stats_forward, isa::token_stats_backward,                  \
        isa::support_forward, isa::support_backward, isa::token_moments,                \
        isa::token_covariance, isa::clipped_tokens, isa::select_pass, isa::select_mark, \
        isa::entropy_change, isa::steer_range, isa::steer_weights                       \
  }

Implementation choose() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const Implementation known[] = {
      ENTROPY_IMPLEMENTATION(v4, __builtin_cpu_supports("x86-64-v4") != 0),
      ENTROPY_IMPLEMENTATION(v3, __builtin_cpu_supports("x86-64-v3") != 0),
      ENTROPY_IMPLEMENTATION(v2, __builtin_cpu_supports("x86-64-v2") != 0),
  };
#else
  const Implementation known[] = {
      ENTROPY_IMPLEMENTATION(baseline, true),
  };
#endif
  const char* const wanted = std::getenv("ENTROPY_EXT_ISA");
  std::string names;
  for (const Implementation& candidate : known) {
    if (wanted == nullptr ? candidate.usable : std::strcmp(wanted, candidate.name) == 0) {
      if (candidate.usable) return candidate;
      throw std::runtime_error(std::string("ENTROPY_EXT_ISA=") + wanted +
                               ": this processor lacks that instruction set");
    }
    names += std::string(names.empty() ? "" : ", ") + candidate.name;
  }
  throw std::runtime_error(wanted == nullptr
                               ? "this processor lacks x86-64-v2, the least that entropy_ext needs"
                               : std::string("ENTROPY_EXT_ISA=") + wanted + ": expected one of " + names);
}

const Implementation& chosen() {
  static const Implementation implementation = choose();
  return implementation;
}

}  // namespace

int64_t token_stats_forward_cpu(const TokenStatsForward& params, int threads) {
  return chosen().forward(params, threads);
}

void token_stats_backward_cpu(const TokenStatsBackward& params, int threads) {
  chosen().backward(params, threads);
}

int64_t support_forward_cpu(const SupportForward& params, int threads) {
  return chosen().support_forward(params, threads);
}

int64_t support_backward_cpu(const SupportBackward& params, int threads) {
  return chosen().support_backward(params, threads);
}

int64_t token_moments_cpu(const TokenMoments& params, int threads) {
  return chosen().token_moments(params, threads);
}

int64_t token_covariance_cpu(const TokenCovariance& params, int threads) {
  return chosen().token_covariance(params, threads);
}

void clipped_tokens_cpu(const ClippedTokens& params, int threads) {
  chosen().clipped_tokens(params, threads);
}

int64_t select_pass_cpu(const TokenSelect& params, int pass, int threads) {
  return chosen().select_pass(params, pass, threads);
}

void select_mark_cpu(const TokenSelect& params, int threads) {
  chosen().select_mark(params, threads);
}

void entropy_change_cpu(const EntropyChange& params, int threads) {
  chosen().entropy_change(params, threads);
}

int64_t steer_range_cpu(const SteerWeights& params, int threads) {
  return chosen().steer_range(params, threads);
}

void steer_weights_cpu(const SteerWeights& params, int threads) {
  chosen().steer_weights(params, threads);
}

const char* cpu_isa() { return chosen().name; }

}  // namespace entropy_ext
