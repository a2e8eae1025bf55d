// Radix selection on the CPU, digit by digit as on CUDA; compiled once per instruction set.
//
// Only pass 0 reads the values of all tokens: it leaves each token's first digit, from which pass 1
// tells who is chosen, who is out, and who agrees with the threshold so far. Those few are listed,
// range by range of the tokens, and later passes look at nobody else.
#include <omp.h>

#include <algorithm>

#include "isa.h"
#include "select_digits.h"

namespace entropy_ext::ENTROPY_EXT_ISA {
namespace {

int64_t ranges_of(int64_t count) { return (count + kSelectRange - 1) / kSelectRange; }

// Pass 0. Returns the first valid token that is NaN, or −1.
template <class Real>
int64_t count_first(const Selection<Real>& selection, int threads) {
  const TokenSelect& params = selection.params;
  bool has_nan = false;
  const int64_t ranges = ranges_of(params.count);
#pragma omp parallel num_threads(std::min<int64_t>(threads, ranges)) if (ranges > 1)
  {
    int64_t bins[kBins] = {};
    int64_t valid = 0;
    bool found_nan = false;
#pragma omp for schedule(static)
    for (int64_t range = 0; range < ranges; ++range) {
      RangeCounts counts;
      const int64_t range_end = std::min(params.count, (range + 1) * kSelectRange);
      for (int64_t begin = range * kSelectRange; begin < range_end; begin += kBlock) {
        const int64_t end = std::min(range_end, begin + kBlock);
        if (params.order == SelectOrder::kLargest) {
          count_block<Real, SelectOrder::kLargest>(selection, begin, end, counts);
        } else {
          count_block<Real, SelectOrder::kRandom>(selection, begin, end, counts);
        }
      }
      params.agreed[range] = 0;
      for (int bin = 0; bin < kBins; ++bin) {
        for (int h = 0; h < kHistograms; ++h) bins[bin] += counts.bins[h][bin];
      }
      valid += counts.valid;
      found_nan |= counts.has_nan;
    }
#pragma omp critical(count_first)
    {
      for (int bin = 0; bin < kBins; ++bin) params.counters[bin] += bins[bin];
      params.counters[kBins] += valid;
      has_nan |= found_nan;
    }
  }
  for (int64_t i = 0; has_nan && i < params.count; ++i) {
    if ((params.mask == nullptr || params.mask[i]) && selection.values[i] != selection.values[i]) {
      return i;
    }
  }
  return -1;
}

// states[pass], from what pass − 1 has counted.
SelectState state_before(const TokenSelect& params, const SelectKeys& keys, int pass) {
  SelectState state = params.states[pass - 1];
  const int64_t* const counters = params.counters + int64_t{pass - 1} * kCounters;
  if (pass == 1) {
    int64_t candidates = 0;
    for (int bin = 0; bin < kBins; ++bin) candidates += counters[bin];
    state = first_state(params.rule, params.fraction, counters[kBins], candidates);
  }
  if (state.resolved == 0) {
    int digit = 0;
    int64_t below = 0;
    while (below + counters[digit] < state.need) below += counters[digit++];
    state = next_state(state, keys, digit, below, counters[digit]);
  }
  params.states[pass] = state;
  return state;
}

// By their first digits: mark the chosen of a range, and list those that agree.
void apply_first(const TokenSelect& params, const SelectState& state, int64_t range) {
  const int64_t begin = range * kSelectRange;
  const int64_t count = std::min(params.count - begin, kSelectRange);
  const uint16_t* const digits = params.digits + begin;
  bool* const selected = params.selected + begin;
  uint16_t* const agreeing = params.agreeing + begin;
  // Unknown yet resolved: all candidates.
  const int first = state.digits == 0 ? kNoCandidate : static_cast<int>(state.value);
  const auto bound = static_cast<uint16_t>(state.digits != 0 && state.resolved ? first + 1 : first);
  for (int64_t i = 0; i < count; ++i) selected[i] = digits[i] < bound;
  if (state.resolved) return;

  int64_t found = 0;
  constexpr int64_t kGlance = 64;
  for (int64_t block = 0; block < count; block += kGlance) {
    const int64_t end = std::min(count, block + kGlance);
    uint16_t agrees = 0;
    for (int64_t i = block; i < end; ++i) agrees |= digits[i] == bound;
    for (int64_t i = block; agrees != 0 && i < end; ++i) {
      agreeing[found] = static_cast<uint16_t>(i);
      found += digits[i] == bound;
    }
  }
  params.agreed[range] = found;
}

// By one more digit: those listed that are below the threshold's are chosen, and those that have it,
// if the threshold is resolved; if not, they stay in the list.
template <class Real>
void apply_next(const Selection<Real>& selection, const SelectState& state, int pass,
                int64_t range) {
  const TokenSelect& params = selection.params;
  const DigitOf<Real> digit_of(selection, pass - 1);
  const uint64_t threshold = (digit_of.of_value ? state.value : state.id) & digit_of.last;
  uint16_t* const agreeing = params.agreeing + range * kSelectRange;
  const int64_t listed = params.agreed[range];
  int64_t kept = 0;
  for (int64_t k = 0; k < listed; ++k) {
    const int64_t i = range * kSelectRange + agreeing[k];
    const uint64_t digit = digit_of(i);
    params.selected[i] = digit < threshold + state.resolved;
    agreeing[kept] = agreeing[k];
    kept += digit == threshold && !state.resolved;
  }
  params.agreed[range] = kept;
}

// Apply states[pass] to all tokens and, unless it is the last word, count digit `pass` of those
// that agree with it.
template <class Real>
void apply_and_count(const Selection<Real>& selection, int pass, int threads) {
  const TokenSelect& params = selection.params;
  const bool finished = params.states[pass - 1].resolved != 0;
  const SelectState state = state_before(params, selection.keys, pass);
  if (finished) return;
  const int64_t ranges = ranges_of(params.count);
#pragma omp parallel num_threads(std::min<int64_t>(threads, ranges)) if (ranges > 1)
  {
    constexpr int kPair = 2;  // of histograms, see RangeCounts
    int64_t counts[kPair][kBins] = {};
#pragma omp for schedule(static)
    for (int64_t range = 0; range < ranges; ++range) {
      if (pass == 1) {
        apply_first(params, state, range);
      } else {
        apply_next(selection, state, pass, range);
      }
      if (state.resolved) continue;
      const DigitOf<Real> digit_of(selection, pass);
      const uint16_t* const agreeing = params.agreeing + range * kSelectRange;
      for (int64_t k = 0; k < params.agreed[range]; ++k) {
        ++counts[k % kPair][digit_of(range * kSelectRange + agreeing[k])];
      }
    }
    if (!state.resolved) {
      int64_t* const counters = params.counters + int64_t{pass} * kCounters;
#pragma omp critical(count_next)
      for (int bin = 0; bin < kBins; ++bin) counters[bin] += counts[0][bin] + counts[1][bin];
    }
  }
}

template <class Real>
int64_t pass_of(const TokenSelect& params, int pass, int threads) {
  const Selection<Real> selection(params);
  if (pass == 0) return count_first(selection, threads);
  apply_and_count(selection, pass, threads);
  return -1;
}

}  // namespace

int64_t select_pass(const TokenSelect& params, int pass, int threads) {
  return params.dtype == Dtype::kFloat64 ? pass_of<double>(params, pass, threads)
                                         : pass_of<float>(params, pass, threads);
}

void select_mark(const TokenSelect& params, int threads) {
  const int last = SelectKeys(params).passes();
  params.dtype == Dtype::kFloat64 ? pass_of<double>(params, last, threads)
                                  : pass_of<float>(params, last, threads);
}

}  // namespace entropy_ext::ENTROPY_EXT_ISA
