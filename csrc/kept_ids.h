// The kept ids of one row, and what is written of it, stated once for both devices.
#pragma once

#include "row_gradient.h"
#include "softmax_moments.h"
#include "support_stats.h"

namespace entropy_ext {

// Whether the row's part of `ids` can be looked at. Of more ids than columns some do not increase.
ENTROPY_INLINE bool offsets_hold(const Support& support, int64_t rows, int64_t vocab, int64_t row) {
  const int64_t begin = support.offsets[row];
  const int64_t end = support.offsets[row + 1];
  return begin >= 0 && begin <= end && end <= support.count && end - begin <= vocab &&
         (row > 0 || begin == 0) && (row + 1 < rows || end == support.count);
}

// A row's kept ids with its token among them, in increasing order: the same sequence, and so the
// same bits, whether or not the token is listed. Its offsets must hold.
class KeptIds {
 public:
  ENTROPY_INLINE KeptIds(const Support& support, int64_t row, int64_t token)
      : ids_(support.ids + support.offsets[row]),
        listed_(static_cast<int>(support.offsets[row + 1] - support.offsets[row])),
        token_(static_cast<int32_t>(token)) {
    int above = listed_;  // the first id above the token, or the end
    while (place_ < above) {
      const int middle = place_ + (above - place_) / 2;
      if (ids_[middle] < token_) {
        place_ = middle + 1;
      } else {
        above = middle;
      }
    }
    inserted_ = place_ == listed_ || ids_[place_] != token_;
  }

  ENTROPY_INLINE int size() const { return listed_ + (inserted_ ? 1 : 0); }

  ENTROPY_INLINE int32_t operator[](int i) const {
    return is_inserted(i) ? token_ : ids_[listed_index(i)];
  }

  // Whether id i lies in the vocabulary, and above the id before it.
  ENTROPY_INLINE bool holds(int i, int64_t vocab) const {
    if (is_inserted(i)) return true;
    const int at = listed_index(i);
    return ids_[at] >= 0 && ids_[at] < vocab && (at == 0 || ids_[at - 1] < ids_[at]);
  }

  ENTROPY_INLINE bool all_hold(int64_t vocab) const {
    bool good = listed_ == 0 || (ids_[0] >= 0 && ids_[listed_ - 1] < vocab);
    for (int i = 1; i < listed_; ++i) good &= ids_[i - 1] < ids_[i];
    return good;
  }

 private:
  ENTROPY_INLINE bool is_inserted(int i) const { return inserted_ && i == place_; }
  ENTROPY_INLINE int listed_index(int i) const { return inserted_ && i > place_ ? i - 1 : i; }

  const int32_t* ids_;
  int listed_;
  int32_t token_;
  int place_ = 0;  // of the token among the ids
  bool inserted_;
};

template <class Real>
ENTROPY_INLINE void write_support_row(const SupportForward& params, int64_t row, Real logp,
                                      Real entropy, Real max, Real sum, Real gap) {
  Real* const stats = static_cast<Real*>(params.stats) + row;
  stats[0] = logp;
  stats[params.rows] = entropy;
  stats[2 * params.rows] = max;
  stats[3 * params.rows] = sum;
  stats[4 * params.rows] = gap;
}

template <class Real>
ENTROPY_INLINE void write_support_row(const SupportForward& params, int64_t row,
                                      const SoftmaxMoments<Real, false>& moments,
                                      const TemperatureScale<Real>& scale, Real token_logit) {
  const RowNumbers<Real> numbers(moments, scale, token_logit);
  write_support_row(params, row, numbers.logp, numbers.entropy, moments.max, numbers.sum,
                    numbers.gap);
}

// As RowGradient of the whole row, with q in place of p.
template <class Real>
ENTROPY_INLINE RowGradient<Real> support_gradient(const SupportBackward& params, int64_t row,
                                                  const TemperatureScale<Real>& scale) {
  const int64_t rows = params.all.rows;
  const Real* const stats = static_cast<const Real*>(params.stats) + row;
  const Real* const grads = static_cast<const Real*>(params.grad_stats) + row;
  return RowGradient<Real>(scale, stats[2 * rows], stats[3 * rows], stats[4 * rows], grads[0],
                           grads[rows], Real(0));
}

}  // namespace entropy_ext
