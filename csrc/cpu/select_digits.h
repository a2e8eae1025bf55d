// The digits of the keys by which tokens are selected.
#pragma once

#include <algorithm>

#include "../selection_math.h"
#include "token_vectors.h"

namespace entropy_ext::ENTROPY_EXT_ISA {

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
};

// What pass 0 learns from a range of tokens. Several histograms, for neighbours often share a digit
// and would wait for each other's count.
constexpr int kHistograms = 4;
struct RangeCounts {
  uint32_t bins[kHistograms][kCounters] = {};
  int64_t valid = 0;
  bool has_nan = false;
};

// A vector of tokens from i on, `count` of them: which are valid, which of those NaN, and the first
// digit of the candidates; of kRandom, whose digit is a hash, 0.
template <class Real, SelectOrder kOrder>
ENTROPY_INLINE Mask<Real> vector_digits(const Selection<Real>& selection, int64_t i, int64_t count,
                                        Mask<Real>& valid, Mask<Real>& nan) {
  constexpr int kBits = 8 * sizeof(Real);
  Vector<Real> x = {};
  std::memcpy(&x, selection.values + i, count * sizeof(Real));
  valid = load_flags<Real>(selection.params.mask, i, count, true);
  const Mask<Real> excluded = load_flags<Real>(selection.params.excluded, i, count, false);
  nan = valid & (x != x);
  const Mask<Real> candidate =
      valid & ~excluded & (x >= splat(selection.least)) & (x <= splat(selection.most));
  Mask<Real> digit = {};
  if constexpr (kOrder == SelectOrder::kLargest) {
    // descending_key(): the bits of a negative number; all but the sign of another inverted.
    const Mask<Real> bits = bit_cast<Mask<Real>>(x + Vector<Real>{});
    const Mask<Real> negative = bits >> (kBits - 1);
    const Mask<Real> sign = bit_cast<Mask<Real>>(splat(Real(-0.0)));
    digit = ((bits ^ (~negative & ~sign)) >> (kBits - kDigitBits)) & (kBins - 1);
  }
  return candidate ? digit : Mask<Real>{} + kNoCandidate;
}

// Find and count the first digits of the block that begins at `begin`.
template <class Real, SelectOrder kOrder>
void count_block(const Selection<Real>& selection, int64_t begin, int64_t end,
                 RangeCounts& counts) {
  constexpr int kWidth = kLanes<Real>;
  const int64_t count = end - begin;
  typename Bits<Real>::Integer lanes[kBlock];
  Mask<Real> valid_tokens = {};
  Mask<Real> nan_tokens = {};
  for (int64_t k = 0; k < count; k += kWidth) {
    Mask<Real> valid;
    Mask<Real> nan;
    const Mask<Real> digit =
        count - k >= kWidth
            ? vector_digits<Real, kOrder>(selection, begin + k, kWidth, valid, nan)
            : vector_digits<Real, kOrder>(selection, begin + k, count - k, valid, nan);
    std::memcpy(lanes + k, &digit, sizeof(digit));
    valid_tokens = valid_tokens - valid;
    nan_tokens = nan_tokens | nan;
  }
  for (int lane = 0; lane < kWidth; ++lane) {
    counts.valid += valid_tokens[lane];
    counts.has_nan |= nan_tokens[lane] != 0;
  }
  uint16_t* const digits = selection.params.digits + begin;
  for (int64_t k = 0; k < count; ++k) digits[k] = static_cast<uint16_t>(lanes[k]);

  if constexpr (kOrder == SelectOrder::kLargest) {
    int64_t k = 0;
    for (; k + kHistograms <= count; k += kHistograms) {
      for (int h = 0; h < kHistograms; ++h) ++counts.bins[h][digits[k + h]];
    }
    for (; k < count; ++k) ++counts.bins[0][digits[k]];
  } else {
    // The candidates first, for the others need no hash; then loops that the compiler vectorises.
    uint16_t candidates[kBlock];
    uint64_t hashes[kBlock];
    int64_t found = 0;
    for (int64_t k = 0; k < count; ++k) {
      candidates[found] = static_cast<uint16_t>(k);
      found += digits[k] != kNoCandidate;
    }
    const int64_t* const ids = selection.params.token_ids;
    for (int64_t c = 0; c < found; ++c) {
      hashes[c] = ids == nullptr ? begin + candidates[c] : ids[begin + candidates[c]];
    }
    for (int64_t c = 0; c < found; ++c) hashes[c] = selection.hash(hashes[c]) >> (64 - kDigitBits);
    for (int64_t c = 0; c < found; ++c) {
      digits[candidates[c]] = static_cast<uint16_t>(hashes[c]);
      ++counts.bins[c % kHistograms][hashes[c]];
    }
  }
}

// Digit number `digit` of the tokens' keys, from the value key or the id key.
template <class Real>
struct DigitOf {
  const Selection<Real>& selection;
  bool of_value;
  int shift;
  uint64_t last;

  DigitOf(const Selection<Real>& select, int digit)
      : selection(select), of_value(digit < select.keys.value_passes()) {
    const SelectKeys& keys = select.keys;
    shift = of_value ? keys.value_rest(digit + 1) : keys.id_rest(digit + 1);
    const int bits = (of_value ? keys.value_rest(digit) : keys.id_rest(digit)) - shift;
    last = (uint64_t{1} << bits) - 1;
  }

  ENTROPY_INLINE uint64_t operator()(int64_t i) const {
    const uint64_t key =
        of_value ? selection.value_key(i) : id_key(selection.params.token_ids, i);
    return key >> shift & last;
  }
};

}  // namespace entropy_ext::ENTROPY_EXT_ISA
