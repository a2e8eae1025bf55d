// The arithmetic of token selection, stated once for both devices.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "softmax_moments.h"
#include "token_selection.h"

namespace entropy_ext {

// Sums as unevaluated pairs, of doubles or of vectors of them: high is the rounded sum, low what
// rounding took.
template <class Number>
ENTROPY_INLINE void add_exactly(Number (&sum)[2], Number x) {
  const Number total = sum[0] + x;
  const Number part = total - sum[0];
  sum[1] = sum[1] + ((sum[0] - (total - part)) + (x - part));
  sum[0] = total;
}

ENTROPY_INLINE void add_pair(double (&sum)[2], const double (&other)[2]) {
  add_exactly(sum, other[0]);
  add_exactly(sum, other[1]);
}

ENTROPY_INLINE void add_product(double (&sum)[2], double x, double y) {
  const double product = x * y;
  add_exactly(sum, product);
  add_exactly(sum, fused(x, y, -product));
}

ENTROPY_INLINE void add_token(MomentSums& sums, double logp, double advantage) {
  sums.counted = sums.counted + 1;
  add_exactly(sums.logp, logp);
  add_exactly(sums.advantage, advantage);
  add_product(sums.logp_square, logp, logp);
  add_product(sums.advantage_square, advantage, advantage);
  add_product(sums.product, logp, advantage);
}

ENTROPY_INLINE void add_sums(MomentSums& into, const MomentSums& other) {
  into.counted = into.counted + other.counted;
  into.skipped = into.skipped + other.skipped;
  add_pair(into.logp, other.logp);
  add_pair(into.advantage, other.advantage);
  add_pair(into.logp_square, other.logp_square);
  add_pair(into.advantage_square, other.advantage_square);
  add_pair(into.product, other.product);
}

// Of a sum kept as a pair, rounded once: how it was split leaves no trace.
ENTROPY_INLINE double mean_of(const double (&sum)[2], double count) {
  return (sum[0] + sum[1]) / count;
}

// On double or on a vector of doubles. x − x is 0, and NaN where x is not finite.
template <class Number>
ENTROPY_INLINE Number covariance_of(Number logp, Number advantage, double mean_logp,
                                    double mean_advantage) {
  return (logp - mean_logp) * (advantage - mean_advantage) +
         ((logp - logp) + (advantage - advantage));
}

// Unsigned keys in the order of the numbers. Adding 0 makes −0 equal to +0.
ENTROPY_INLINE uint32_t ordered_key(float x) {
  x = x + 0.0f;
  uint32_t bits;
  memcpy(&bits, &x, sizeof(bits));
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

ENTROPY_INLINE uint64_t ordered_key(double x) {
  x = x + 0.0;
  uint64_t bits;
  memcpy(&bits, &x, sizeof(bits));
  return bits >> 63 ? ~bits : bits | (uint64_t{1} << 63);
}

// A bijection of 64-bit words whose every output bit depends on every input bit: xor-shifts and odd
// multipliers (Stafford's variant 13 of the MurmurHash3 finaliser).
ENTROPY_INLINE uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// Counter-based: the key of a token is a function of seed and id alone, and for one seed distinct
// ids have distinct keys. Two rounds with different words of the seed, for one round would give two
// seeds the same keys in permuted order.
struct TokenHash {
  uint64_t first;
  uint64_t second;

  ENTROPY_INLINE explicit TokenHash(int64_t seed)
      : first(mix(static_cast<uint64_t>(seed) + 0x9e3779b97f4a7c15u)),
        second(mix(first ^ 0xd1b54a32d192ed03u)) {}

  ENTROPY_INLINE uint64_t operator()(int64_t id) const {
    return mix(mix(static_cast<uint64_t>(id) + first) ^ second);
  }
};

// How many to choose of `valid` tokens, `candidates` of which may be.
ENTROPY_INLINE int64_t select_count(SelectCount rule, double fraction, int64_t valid,
                                    int64_t candidates) {
  if (valid == 0) return 0;
  const double n = static_cast<double>(valid);
  int64_t k = 0;
  switch (rule) {
    case SelectCount::kFloor: k = static_cast<int64_t>(fraction * n); break;
    case SelectCount::kCeil: k = static_cast<int64_t>(fraction * n + 0.9999); break;
    case SelectCount::kQuantile:
      k = valid - static_cast<int64_t>(ceil((1.0 - fraction) * (n - 1.0)));
      break;
  }
  k = k < 1 ? 1 : k;
  return k < candidates ? k : candidates;
}

// Strict bounds; an infinite one binds nothing, not even its own value. NaN is never within.
ENTROPY_INLINE bool within(double value, double low, double high) {
  return value == value && (value > low || low == -INFINITY) &&
         (value < high || high == INFINITY);
}

// The keys of a selection, smallest chosen first: a value key, and where it is equal an id key.
struct SelectKeys {
  int value_bits;
  int id_bits;  // 0: ties are not broken

  ENTROPY_INLINE SelectKeys(Dtype dtype, SelectOrder order, SelectCount rule, int64_t count,
                            bool has_ids)
      : value_bits(order == SelectOrder::kLargest && dtype == Dtype::kFloat32 ? 32 : 64),
        id_bits(0) {
    if (order == SelectOrder::kRandom || rule == SelectCount::kQuantile) return;
    if (has_ids) {
      id_bits = 64;
    } else {
      while (id_bits < 63 && ((count - 1) >> id_bits) > 0) ++id_bits;
    }
  }

  ENTROPY_INLINE explicit SelectKeys(const TokenSelect& params)
      : SelectKeys(params.dtype, params.order, params.rule, params.count,
                   params.token_ids != nullptr) {}

  ENTROPY_INLINE int value_passes() const { return (value_bits + kDigitBits - 1) / kDigitBits; }
  ENTROPY_INLINE int passes() const {
    return value_passes() + (id_bits + kDigitBits - 1) / kDigitBits;
  }
  // Bits to the right of the first `digits` digits.
  ENTROPY_INLINE int value_rest(int64_t digits) const { return rest(value_bits, digits); }
  ENTROPY_INLINE int id_rest(int64_t digits) const {
    return rest(id_bits, digits - value_passes());
  }

  // Digit number `digit` (from 0) of the token.
  ENTROPY_INLINE int digit(int digit, uint64_t value_key, uint64_t id_key) const {
    const bool of_value = digit < value_passes();
    const uint64_t key = of_value ? value_key : id_key;
    const int before = of_value ? value_rest(digit) : id_rest(digit);
    const int after = of_value ? value_rest(digit + 1) : id_rest(digit + 1);
    const uint64_t last = (uint64_t{1} << (before - after)) - 1;
    return static_cast<int>(key >> after & last);
  }

  // Below the threshold so far: −1, chosen; in agreement: 0; above it: 1.
  ENTROPY_INLINE int compare(const SelectState& state, uint64_t value_key, uint64_t id_key) const {
    if (state.digits == 0) return 0;
    const uint64_t value = value_key >> value_rest(state.digits);
    if (value != state.value) return value < state.value ? -1 : 1;
    if (state.digits <= value_passes()) return 0;
    const uint64_t id = id_key >> id_rest(state.digits);
    return id == state.id ? 0 : id < state.id ? -1 : 1;
  }

 private:
  ENTROPY_INLINE static int rest(int bits, int64_t digits) {
    if (digits <= 0) return bits;
    return digits * kDigitBits < bits ? bits - static_cast<int>(digits) * kDigitBits : 0;
  }
};

ENTROPY_INLINE int select_passes(Dtype dtype, SelectOrder order, SelectCount rule, int64_t count,
                         bool has_ids) {
  return SelectKeys(dtype, order, rule, count, has_ids).passes();
}

// Value keys of kLargest, and id keys: those of positions need no sign.
ENTROPY_INLINE uint64_t descending_key(float x) { return static_cast<uint32_t>(~ordered_key(x)); }
ENTROPY_INLINE uint64_t descending_key(double x) { return ~ordered_key(x); }
ENTROPY_INLINE uint64_t id_key(const int64_t* token_ids, int64_t position) {
  return token_ids == nullptr ? static_cast<uint64_t>(position)
                              : static_cast<uint64_t>(token_ids[position]) ^ (uint64_t{1} << 63);
}

// What is sought once pass 0 has counted: all candidates, or fewer.
ENTROPY_INLINE SelectState first_state(SelectCount rule, double fraction, int64_t valid,
                                       int64_t candidates) {
  SelectState state{};
  state.need = select_count(rule, fraction, valid, candidates);
  state.resolved = state.need == candidates ? 1 : 0;
  return state;
}

// The state after one more digit of the threshold: `below` of those in agreement have a smaller one
// and `inside` the same, with below < need ≤ below + inside.
ENTROPY_INLINE SelectState next_state(const SelectState& state, const SelectKeys& keys, int digit,
                                      int64_t below, int64_t inside) {
  SelectState next = state;
  const bool of_value = state.digits < keys.value_passes();
  const int bits = of_value ? keys.value_rest(state.digits) - keys.value_rest(state.digits + 1)
                            : keys.id_rest(state.digits) - keys.id_rest(state.digits + 1);
  const uint64_t prefix =
      (of_value ? state.value : state.id) << bits | static_cast<uint64_t>(digit);
  next.value = of_value ? prefix : state.value;
  next.id = of_value ? state.id : prefix;
  next.need = state.need - below;
  next.digits = state.digits + 1;
  next.resolved = next.need == inside || next.digits == keys.passes() ? 1 : 0;
  return next;
}

// Where the PPO clip binds, told from the logarithm of the ratio: no exponential, no rounding of
// it. 1 + high beyond e^20, or 1 − low below e^−20, is never reached: the log-ratio is clamped.
struct ClipRange {
  double above;
  double below;

  ENTROPY_INLINE ClipRange(double low, double high)
      : above(log1p(high)), below(low < 1.0 ? log1p(-low) : -INFINITY) {}

  ENTROPY_INLINE bool binds(double log_ratio, double advantage) const {
    return ((advantage > 0.0) & (at_most(log_ratio, 20.0) > above)) |
           ((advantage < 0.0) & (at_least(log_ratio, -20.0) < below));
  }
};

// −ρ·A·(S − Σ p²(ln p + H)) with S = p(ln p + H); see EntropyChange.
template <class Number, class Exponential>
ENTROPY_INLINE Number entropy_change_of(const Exponential& exponential, Number logp, Number entropy,
                                        Number collision, Number collision_logp, Number advantage,
                                        Number ratio) {
  const Number zero = Number{};
  const Number p = exponential(logp);
  const Number sensitivity = p == zero ? zero : p * (logp + entropy);
  const Number change =
      -(ratio * advantage * (sensitivity - (collision_logp + entropy * collision)));
  return collision == zero ? zero : change;
}

// Ω = −(first-order change of the entropy) per unit step, of which the weight takes the size, on
// double or on a vector of doubles; `exponential` is e^x for them.
//
// kCode clamps both probabilities as the authors' code does; the others clamp the log-ratio, as the
// losses do, so that a finite input never overflows.
template <class Number, class Exponential>
ENTROPY_INLINE Number steer_change(SteerForm form, const Exponential& exponential, Number logp,
                                   Number old_logp, Number entropy, Number advantage,
                                   Number collision, Number collision_logp) {
  const Number zero = Number{};
  if (form == SteerForm::kCode) {
    constexpr double kLogTiny = -18.420680743952367;  // ln 1e-8
    constexpr double kLogNearOne = -1.0000000050000000e-08;  // ln(1 − 1e-8)
    const Number log_x = at_most(at_least(logp, zero + kLogTiny), zero + kLogNearOne);
    const Number log_old = at_most(at_least(old_logp, zero + kLogTiny), zero);
    return advantage * exponential(log_x - log_old) * (1.0 - exponential(log_x)) *
           (log_x + entropy);
  }
  const Number log_ratio = at_most(at_least(logp - old_logp, zero - 20.0), zero + 20.0);
  const Number step = advantage * exponential(log_ratio);
  const Number p = exponential(logp);
  const Number sensitivity = p * (logp + entropy);
  if (form == SteerForm::kOwnLogit) return step * sensitivity * (1.0 - p);
  return step * (sensitivity - (collision_logp + entropy * collision));
}

// The map from M = |Ω| to the weight, from the range that the first launch found.
struct SteerMap {
  bool linear;
  double slope;  // weight = slope·M + offset or e^(slope·M), clamped to [low, high]
  double offset;
  double low;
  double high;

  ENTROPY_INLINE explicit SteerMap(const SteerWeights& params)
      : linear(params.map == WeightMap::kLinear),
        slope(0.0),
        offset(0.0),
        low(params.lambda_min),
        high(linear ? params.lambda_max : 1.0) {
    const int64_t least_bits = INT64_MAX - params.range[1];
    double greatest;
    double least;
    memcpy(&greatest, &params.range[0], sizeof(greatest));
    memcpy(&least, &least_bits, sizeof(least));
    if (!linear) {
      const double scale = greatest > params.floor ? greatest : params.floor;
      if (scale > 0.0) slope = log(params.lambda_min) / scale;
    } else if (greatest > least) {
      slope = -(high - low) / (greatest - least);
      offset = fused(-slope, least, high);
    } else {
      offset = 0.5 * (low + high);
    }
  }

  template <class Number, class Exponential>
  ENTROPY_INLINE Number operator()(const Exponential& exponential, Number size) const {
    const Number weight = linear ? size * slope + offset : exponential(size * slope);
    return at_most(at_least(weight, Number{} + low), Number{} + high);
  }
};

}  // namespace entropy_ext
