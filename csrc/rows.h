// A row of the logits, which is one token: where it lies, and whether it is read.
#pragma once

#include "softmax_moments.h"

namespace entropy_ext {

// What the statistics of logits stored as Storage are computed in.
template <class Storage>
struct RealOf {
  using Type = float;
};
template <>
struct RealOf<double> {
  using Type = double;
};

ENTROPY_INLINE int64_t row_offset(const RowLayout& layout, int64_t row) {
  if (layout.ndim == 0) return 0;
  int64_t offset = 0;
  for (int d = layout.ndim - 1; d > 0; --d) {
    offset += row % layout.size[d] * layout.stride[d];
    row /= layout.size[d];
  }
  return offset + row * layout.stride[0];
}

template <class Params>
ENTROPY_INLINE bool masked(const Params& params, int64_t row) {
  return params.mask != nullptr && !params.mask[row];
}

template <class Storage, class Params>
ENTROPY_INLINE const Storage* logits_of(const Params& params, int64_t row) {
  return static_cast<const Storage*>(params.logits) + row_offset(params.layout, row);
}

template <class Storage, class Params>
ENTROPY_INLINE typename RealOf<Storage>::Type temperature_of(const Params& params, int64_t row) {
  using Real = typename RealOf<Storage>::Type;
  return static_cast<const Real*>(params.temperature)[row * params.temperature_stride];
}

// Whether the row's logits are to be read. All three are fetched before the first is looked at, for
// on CUDA each would otherwise wait for the one before.
template <class Storage, class Params>
ENTROPY_INLINE bool row_counts(const Params& params, int64_t row) {
  const bool dropped = masked(params, row);
  const int64_t token = params.tokens[row];
  const auto temperature = temperature_of<Storage>(params, row);
  return !dropped & (token >= 0) & (token < params.vocab) &
         TemperatureScale<typename RealOf<Storage>::Type>::valid(temperature);
}

}  // namespace entropy_ext
