// Radix selection on the CPU, digit by digit as on CUDA; compiled once per instruction set.
//
// Only pass 0 reads the values of all tokens: it leaves each token's first digit, from which pass 1
// tells who is chosen, who is out, and who agrees with the threshold so far. Those few are listed,
// range by range of the tokens, and later passes look at nobody else.
#include <omp.h>

#include <algorithm>

#include "../selection_math.h"
#include "isa.h"
#include "simd.h"
#include "token_vectors.h"

namespace entropy_ext::ENTROPY_EXT_ISA {
namespace {

constexpr uint16_t kNoCandidate = kBins;
// Tokens whose digits are found, then counted, while they lie in the first-level cache.
constexpr int64_t kBlock = 2048;
static_assert(kSelectRange % kBlock == 0 && kSelectRange <= 65536, "offsets of 16 bits");

template <class Real>
struct Selection {
  const TokenSelect& params;
  const Real* values;
  SelectKeys keys;
  TokenHash hash;
  Real least;  // candidates are at least this and at most the next
  Real most;

  explicit Selection(const TokenSelect& select)
      : params(select),
        values(static_cast<const Real*>(select.values)),
        keys(select),
        hash(select.order == SelectOrder::kRandom ? select.seed[0] : 0),
        least(above(select.low)),
        most(-above(-select.high)) {}

  // The least Real above a bound, −∞ for want of one.
  static Real above(double bound) {
    if (bound == -INFINITY) return negative_infinity<Real>();
    const Real rounded = static_cast<Real>(bound);
    if (static_cast<double>(rounded) > bound) return rounded;
    return std::nextafter(rounded, -negative_infinity<Real>());
  }

  ENTROPY_INLINE uint64_t value_key(int64_t i) const {
    if (params.order == SelectOrder::kLargest) return descending_key(values[i]);
    return hash(params.token_ids == nullptr ? i : params.token_ids[i]);
  }
  ENTROPY_INLINE uint64_t tie_key(int64_t i) const { return id_key(params.token_ids, i); }
};

// What pass 0 learns from some of the tokens. Two histograms, for neighbours often share a digit and
// would wait for each other's count.
struct FirstCounts {
  int64_t bins[2][kCounters] = {};
  int64_t valid = 0;
  bool has_nan = false;
};

// The first digits of kLanes tokens of kLargest at i, or of fewer at the end; kNoCandidate or, with
// kRandom, 0 for those whose digit is a hash.
template <class Real, SelectOrder kOrder>
ENTROPY_INLINE void vector_digits(const Selection<Real>& selection, int64_t i, int64_t count,
                                  Mask<Real>& valid_lanes, Mask<Real>& nan_lanes) {
  constexpr int kWidth = kLanes<Real>;
  constexpr int kBits = 8 * sizeof(Real);
  typedef uint16_t Digits __attribute__((vector_size(kWidth * sizeof(uint16_t))));
  const TokenSelect& params = selection.params;
  Vector<Real> x = {};
  if (count == kWidth) {
    std::memcpy(&x, selection.values + i, sizeof(x));
  } else {
    std::memcpy(&x, selection.values + i, count * sizeof(Real));
  }
  const auto valid = load_flags<Mask<Real>>(params.mask, i, count, true);
  const auto excluded = load_flags<Mask<Real>>(params.excluded, i, count, false);
  valid_lanes = valid_lanes - valid;
  nan_lanes = nan_lanes | (valid & (x != x));
  const Mask<Real> candidate =
      valid & ~excluded & (x >= splat(selection.least)) & (x <= splat(selection.most));
  Mask<Real> digit = {};
  if constexpr (kOrder == SelectOrder::kLargest) {
    // descending_key() of a vector: a negative number's bits, all but the sign of others inverted.
    const Mask<Real> bits = bit_cast<Mask<Real>>(x + Vector<Real>{});
    const Mask<Real> negative = bits >> (kBits - 1);
    const Mask<Real> sign = bit_cast<Mask<Real>>(splat(Real(-0.0)));
    digit = ((bits ^ (~negative & ~sign)) >> (kBits - kDigitBits)) & (kBins - 1);
  }
  const Mask<Real> none = Mask<Real>{} + kNoCandidate;
  const Digits digits = __builtin_convertvector(candidate ? digit : none, Digits);
  if (count == kWidth) {
    std::memcpy(params.digits + i, &digits, sizeof(digits));
  } else {
    std::memcpy(params.digits + i, &digits, count * sizeof(uint16_t));
  }
}

// Find and count the first digits of the block that begins at `begin`.
template <class Real, SelectOrder kOrder>
void count_block(const Selection<Real>& selection, int64_t begin, int64_t end,
                 FirstCounts& counts) {
  constexpr int kWidth = kLanes<Real>;
  Mask<Real> valid = {};
  Mask<Real> nan = {};
  int64_t i = begin;
  for (; i + kWidth <= end; i += kWidth) {
    vector_digits<Real, kOrder>(selection, i, kWidth, valid, nan);
  }
  if (i < end) vector_digits<Real, kOrder>(selection, i, end - i, valid, nan);
  for (int lane = 0; lane < kWidth; ++lane) {
    counts.valid += valid[lane];
    counts.has_nan |= nan[lane] != 0;
  }

  uint16_t* const digits = selection.params.digits;
  if constexpr (kOrder == SelectOrder::kRandom) {
    uint16_t candidates[kBlock];
    int64_t found = 0;
    for (int64_t k = begin; k < end; ++k) {
      candidates[found] = static_cast<uint16_t>(k - begin);
      found += digits[k] != kNoCandidate;
    }
    for (int64_t c = 0; c < found; ++c) {
      const int64_t k = begin + candidates[c];
      digits[k] = static_cast<uint16_t>(selection.keys.digit(0, selection.value_key(k), 0));
      ++counts.bins[0][digits[k]];
    }
    return;
  }
  int64_t k = begin;
  for (; k + 1 < end; k += 2) {
    ++counts.bins[0][digits[k]];
    ++counts.bins[1][digits[k + 1]];
  }
  if (k < end) ++counts.bins[0][digits[k]];
}

int64_t ranges_of(int64_t count) { return (count + kSelectRange - 1) / kSelectRange; }

template <class Real>
int64_t count_first(const Selection<Real>& selection, int threads) {
  const TokenSelect& params = selection.params;
  bool has_nan = false;
  const int64_t ranges = ranges_of(params.count);
#pragma omp parallel num_threads(std::min<int64_t>(threads, ranges)) if (ranges > 1)
  {
    FirstCounts counts;
#pragma omp for schedule(static)
    for (int64_t range = 0; range < ranges; ++range) {
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
    }
#pragma omp critical(count_first)
    {
      for (int bin = 0; bin < kBins; ++bin) {
        params.counters[bin] += counts.bins[0][bin] + counts.bins[1][bin];
      }
      params.counters[kBins] += counts.valid;
      has_nan |= counts.has_nan;
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

// By one more digit: mark the chosen among those listed, and keep those that still agree.
template <class Real>
void apply_next(const Selection<Real>& selection, const SelectState& state, int64_t range) {
  const TokenSelect& params = selection.params;
  uint16_t* const agreeing = params.agreeing + range * kSelectRange;
  int64_t kept = 0;
  for (int64_t k = 0; k < params.agreed[range]; ++k) {
    const int64_t i = range * kSelectRange + agreeing[k];
    const int order =
        selection.keys.compare(state, selection.value_key(i), selection.tie_key(i));
    params.selected[i] = order < 0 || (order == 0 && state.resolved);
    agreeing[kept] = agreeing[k];
    kept += order == 0 && !state.resolved;
  }
  params.agreed[range] = kept;
}

// Apply states[pass] to all tokens and, unless it is the last word, count digit `pass` of those that
// agree with it.
template <class Real>
void apply_and_count(const Selection<Real>& selection, int pass, int threads) {
  const TokenSelect& params = selection.params;
  const SelectState state = state_before(params, selection.keys, pass);
  int64_t* const counters = params.counters + int64_t{pass} * kCounters;
  const int64_t ranges = ranges_of(params.count);
#pragma omp parallel num_threads(std::min<int64_t>(threads, ranges)) if (ranges > 1)
  {
    int64_t counts[kBins] = {};
#pragma omp for schedule(static)
    for (int64_t range = 0; range < ranges; ++range) {
      if (pass == 1) {
        apply_first(params, state, range);
      } else {
        apply_next(selection, state, range);
      }
      for (int64_t k = 0; k < params.agreed[range]; ++k) {
        const int64_t i = range * kSelectRange + params.agreeing[range * kSelectRange + k];
        ++counts[selection.keys.digit(pass, selection.value_key(i), selection.tie_key(i))];
      }
    }
    if (!state.resolved) {
#pragma omp critical(count_next)
      for (int bin = 0; bin < kBins; ++bin) counters[bin] += counts[bin];
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
