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
};

Implementation choose() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const Implementation known[] = {
      {"v4", __builtin_cpu_supports("x86-64-v4") != 0, v4::token_stats_forward, v4::token_stats_backward},
      {"v3", __builtin_cpu_supports("x86-64-v3") != 0, v3::token_stats_forward, v3::token_stats_backward},
      {"v2", __builtin_cpu_supports("x86-64-v2") != 0, v2::token_stats_forward, v2::token_stats_backward},
  };
#else
  const Implementation known[] = {
      {"baseline", true, baseline::token_stats_forward, baseline::token_stats_backward},
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

const char* cpu_isa() { return chosen().name; }

}  // namespace entropy_ext
